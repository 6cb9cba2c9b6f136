"""A run that is broken and resumed, and the checks at every resume."""

import json
import random
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from .comparison import (
    compare_betons,
    compare_trainings,
    file_digest,
    list_checkpoints,
    step_of,
)
from .processes import Child, Nursery
from .settings import References, Setting


@dataclass
class BrokenRun:
    """One run folder, its command, and the state of its checkpoints.

    `target` is the step at which the next fault strikes, or a little later.
    """

    setting: Setting
    home: Path
    references: References
    nursery: Nursery
    random: random.Random
    launches: int = 0
    target: int = 0
    floor: int = 0
    """Step of the newest checkpoint that was good at the last fault: it must not be lost."""
    damaged: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each damaged or foreign checkpoint, by file name."""
    problems: list[str] = field(default_factory=list)
    history: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder = self.home / "run"
        self.reference = self.references.get(self.setting.name)
        self.own_data: Path | None = None
        self._expected = 0
        self._refused: list[str] = []

    @property
    def data(self) -> Path:
        """The folder of its images; a copy of its own if they are to be broken."""
        return self.own_data or self.references.data(self.setting.name)

    @property
    def total_steps(self) -> int:
        return step_of(list_checkpoints(self.reference)[-1])

    @property
    def finished(self) -> bool:
        """Whether it ended by itself: a launch would not resume it."""
        return (self.folder / "summary.json").exists()

    def check(self, holds: bool, problem: str) -> None:
        """Record a problem unless `holds`."""
        if not holds:
            self.problems.append(f"launch {self.launches}: {problem}")

    def command(self) -> list[str]:
        return self.setting.command(self.folder, self.data)

    def start(self, command: list[str] | None = None) -> Child:
        """Start or resume with the same command."""
        good, bad = self.good_checkpoints(), self.bad_checkpoints()
        self._expected = step_of(good[-1]) if good else 0
        self._refused = [path.name for path in bad if step_of(path) > self._expected]
        self.check(
            self._expected >= self.floor,
            f"the checkpoint of step {self.floor} is lost; the newest is of {self._expected}",
        )
        self.launches += 1
        log = self.home / "logs" / f"{self.launches:02d}"
        return self.nursery.start(command or self.command(), log)

    def inspect_start(self, child: Child) -> None:
        """Check, after a launch, that it resumed at the newest good checkpoint and named bad ones."""
        found = re.search(r"resuming at step (\d+)", child.stdout)
        if found:
            self.check(
                int(found[1]) == self._expected,
                f"resumed at step {found[1]}, the newest good checkpoint was of {self._expected}",
            )
            for name in self._refused:
                self.check(f"{name} is not used" in child.stderr, f"no warning of {name}")
        elif self._expected and child.process.returncode == 0:
            self.check("is finished already" in child.stdout, "it did not say where it resumed")

    def bad_checkpoints(self) -> list[Path]:
        paths = list_checkpoints(self.folder)
        return [p for p in paths if p.name in self.damaged and self._is_damaged(p)]

    def _is_damaged(self, path: Path) -> bool:
        try:
            return file_digest(path) == self.damaged[path.name]
        except FileNotFoundError:  # removed by the run in the meantime
            return False

    def good_checkpoints(self) -> list[Path]:
        """Complete, undamaged checkpoints, oldest first."""
        bad = set(self.bad_checkpoints())
        return [path for path in list_checkpoints(self.folder) if path not in bad]

    def remember_floor(self) -> None:
        """Set `floor` to the newest good checkpoint of this moment."""
        good = self.good_checkpoints()
        self.floor = step_of(good[-1]) if good else 0

    def mark_damaged(self, path: Path) -> None:
        self.damaged[path.name] = file_digest(path)
        self.remember_floor()

    def logged_step(self) -> int:
        """The last step of metrics.jsonl; 0 if there is none."""
        try:
            lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return 0
        for line in reversed(lines[-2:]):
            try:
                return int(json.loads(line)["step"])
            except (json.JSONDecodeError, KeyError):  # half-written
                continue
        return 0

    def wait_for_moment(self, child: Child) -> bool:
        """Wait until training is past the target, and a little longer; False if it ended before."""
        # records after the checkpoint are still there while a resume starts: they do not count
        target = max(self.target, self.logged_step() + 1)
        if not child.wait_until(lambda: self.logged_step() >= target):
            return False
        time.sleep(self.random.uniform(0, 0.15))
        self.remember_floor()
        return child.running

    def finish(self) -> list[str]:
        """Run to the end; returns the differences from the unbroken run."""
        child = self.start()
        code = child.wait()
        self.inspect_start(child)
        if code != 0:
            return [f"the last launch ended with {code}: {child.stderr[-1000:]}"]
        return self.compare()

    def compare(self) -> list[str]:
        """Differences from the unbroken run, a line each."""
        beton = self.setting.name == "beton"
        return (compare_betons if beton else compare_trainings)(self.folder, self.reference)
