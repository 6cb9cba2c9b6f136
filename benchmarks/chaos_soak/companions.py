"""Faults of what a run leans on: other ranks, image files, arithmetic, the writer of betons."""

import signal
import time
from pathlib import Path
from typing import ClassVar

import psutil

from chaos_soak.broken_run import BrokenRun
from chaos_soak.comparison import read_records
from chaos_soak.faults import Fault, LiveFault, check_one_error
from chaos_soak.processes import Child


class RankDies(LiveFault):
    """SIGKILL to one of two ranks under torchrun."""

    name = "rank_dies"
    setting = "two_ranks"
    rare = True
    expected = "the job ends within 60 s, not with 0, and names the rank"

    def strike(self, run: BrokenRun, child: Child) -> None:
        self.rank = run.random.randrange(2)
        for process in psutil.Process(child.process.pid).children():
            if process.environ().get("RANK") == str(self.rank):
                process.kill()
        run.check(child.wait(60) is not None, f"{self.name}: still running after 60 s")

    def inspect(self, run: BrokenRun, child: Child, code: int) -> None:
        named = f"rank      : {self.rank} " in child.stderr
        run.check(named, f"{self.name}: rank {self.rank} is not named: {child.stderr[-1500:]}")


class FileDeleted(LiveFault):
    """An image that is still to be read is deleted."""

    name = "file_deleted"
    setting = "files"
    expected: ClassVar[str] = "exit code 2, one line that names the file; resumes once it is back"

    def inject(self, run: BrokenRun) -> bool:
        if run.own_data is None:
            # its path is an option of the run: the same for all launches of it
            run.own_data = run.references.copy_data(run.setting.name, run.home / "data")
        images = sorted((run.data / "train").glob("*.png"))
        self.image = images[run.random.randrange(len(images))]
        self.content = self.image.read_bytes()
        return super().inject(run)

    def strike(self, run: BrokenRun, child: Child) -> None:
        self.image.unlink()

    def repair(self, run: BrokenRun) -> None:
        self.image.write_bytes(self.content)

    def inspect(self, run: BrokenRun, child: Child, code: int) -> None:
        check_one_error(run, child, code, self.name, self.image.name)


class FileTruncated(FileDeleted):
    """An image that is still to be read is cut."""

    name = "file_truncated"

    def strike(self, run: BrokenRun, child: Child) -> None:
        # not in place: a reader would see neither the old nor the new
        cut = self.image.with_suffix(".cut")
        cut.write_bytes(self.content[: run.random.randrange(len(self.content) // 2)])
        cut.replace(self.image)


class NotFinite(LiveFault):
    """Losses are NaN at some steps, and SIGKILL among them."""

    name = "nan"
    setting = "poisoned"
    expected = "these steps are skipped, the same after a resume"

    def strike(self, run: BrokenRun, child: Child) -> None:
        child.send(signal.SIGKILL)

    def inspect(self, run: BrokenRun, child: Child, code: int) -> None:
        bad = [r["step"] for r in read_records(run.reference) if r.get("loss", 0) is None]
        run.check(bool(bad), f"{self.name}: not one step of the unbroken run was bad")
        run.history.append(f"  {len(bad)} bad steps in the unbroken run")


class WriterDies(Fault):
    """write_beton.py is ended by SIGKILL or SIGTERM while its threads write."""

    name = "writer_dies"
    setting = "beton"
    expected = "no beton is there; SIGTERM leaves nothing, what SIGKILL leaves is named later"

    def inject(self, run: BrokenRun) -> bool:
        before = self._partials(run.folder)
        child = run.start()
        begun = child.wait_until(lambda: bool(self._partials(run.folder) - before), 0.002)
        time.sleep(run.random.uniform(0, 0.3))
        number = run.random.choice([signal.SIGKILL, signal.SIGTERM])
        child.send(number)
        code = child.wait()
        if not begun or code == 0:
            return False
        for path in before:
            run.check(path.name in child.stderr, f"{self.name}: no warning of {path.name}")
        if number == signal.SIGTERM:
            run.check(code == 143, f"{self.name}: exit code {code} after SIGTERM")
            new = self._partials(run.folder) - before
            run.check(not new, f"{self.name}: SIGTERM left {[path.name for path in new]}")
        run.check("Traceback" not in child.stderr, f"{self.name}: {child.stderr[-600:]}")
        beton = run.folder / "train.beton"
        run.check(not beton.exists(), f"{self.name}: a beton is there")
        return True

    def _partials(self, folder: Path) -> set[Path]:
        return set(folder.glob(".train.beton.*.partial"))
