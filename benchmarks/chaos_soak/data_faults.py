"""Faults of image files, and of the process that writes a beton."""

import signal
import time
from pathlib import Path
from typing import ClassVar

from .broken_run import BrokenRun
from .faults import Fault, LiveFault, check_one_error
from .processes import Child


class FileDeleted(LiveFault):
    """An image that is not yet read is deleted."""

    name = "file_deleted"
    setting = "files"
    expected: ClassVar[str] = "exit code 2, one line that names the file; resumes once it is back"

    def inject(self, run: BrokenRun) -> bool:
        if run.own_data is None:
            # a copy of its own, so that other runs keep theirs
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
    """An image that is not yet read is cut."""

    name = "file_truncated"

    def strike(self, run: BrokenRun, child: Child) -> None:
        # replaced, not cut in place: a reader sees either the whole image or the cut one
        cut = self.image.with_suffix(".cut")
        cut.write_bytes(self.content[: run.random.randrange(len(self.content) // 2)])
        cut.replace(self.image)


class WriterDies(Fault):
    """write_beton.py gets SIGKILL or SIGTERM while its threads write."""

    name = "writer_dies"
    setting = "beton"
    expected = "no beton; SIGTERM leaves no file, the next launch names a file that SIGKILL leaves"

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
