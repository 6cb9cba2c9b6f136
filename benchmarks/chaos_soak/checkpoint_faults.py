"""Faults of checkpoints between two launches: cut, changed, or of another run."""

import os
import shutil
from pathlib import Path

import torch

from .broken_run import BrokenRun
from .comparison import list_checkpoints, step_of
from .faults import Fault


class Damage(Fault):
    """Damages the newest checkpoint while the run is stopped."""

    at_rest = True
    expected = "a warning names it; the one before it is used"

    def applies(self, run: BrokenRun) -> bool:
        return len(run.good_checkpoints()) >= 2

    def inject(self, run: BrokenRun) -> bool:
        path = run.good_checkpoints()[-1]
        self.damage(run, path)
        run.mark_damaged(path)
        return True

    def damage(self, run: BrokenRun, path: Path) -> None:
        """Damage one file in place."""
        raise NotImplementedError


class Truncate(Damage):
    """The newest checkpoint is cut at a random length."""

    name = "truncate"

    def damage(self, run: BrokenRun, path: Path) -> None:
        os.truncate(path, run.random.randrange(path.stat().st_size))


class Flip(Damage):
    """One bit of the newest checkpoint is flipped."""

    name = "flip"

    def damage(self, run: BrokenRun, path: Path) -> None:
        content = bytearray(path.read_bytes())
        bit = run.random.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)


class Foreign(Fault):
    """A foreign file has the name of the newest checkpoint."""

    name = "foreign"
    at_rest = True
    expected = "a warning names it; the run's own newest one is used"

    def applies(self, run: BrokenRun) -> bool:
        good = run.good_checkpoints()
        return bool(good) and step_of(good[-1]) < run.total_steps  # so that a save follows

    def inject(self, run: BrokenRun) -> bool:
        newest = run.good_checkpoints()[-1]
        replace = run.random.choice(
            [self.add_other_run, self.add_other_content, self.replace_content]
        )
        path = replace(run, newest)
        run.history.append(f"  {path.name}")
        run.mark_damaged(path)
        return True

    def add_other_run(self, run: BrokenRun, newest: Path) -> Path:
        """Add a checkpoint of another seed, complete and with its checksum, as a newer step."""
        other = list_checkpoints(run.references.get("other_seed"))[-1]
        digest = other.name.rpartition("-")[2]
        path = newest.with_name(f"step-{step_of(newest) + 5:08d}-{digest}")
        shutil.copyfile(other, path)
        return path

    def add_other_content(self, run: BrokenRun, newest: Path) -> Path:
        """Add a file that torch reads but that is not a checkpoint, as a newer step."""
        checksum = run.random.choice(["", f"-{run.random.getrandbits(64):016x}"])
        path = newest.with_name(f"step-{step_of(newest) + 5:08d}{checksum}.pt")
        torch.save({"weight": torch.zeros(3)}, path)
        return path

    def replace_content(self, run: BrokenRun, newest: Path) -> Path:
        """Replace the newest checkpoint by a file that torch reads but that is not one."""
        if len(run.good_checkpoints()) < 2:
            return self.add_other_content(run, newest)
        torch.save({"weight": torch.zeros(3)}, newest)
        return newest
