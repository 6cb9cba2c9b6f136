"""Faults of storage: a full file system, a limit on file size, folders read-only or renamed."""

import contextlib
import os
import resource
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import ClassVar

from .broken_run import BrokenRun
from .faults import LiveFault, check_one_error
from .processes import Child, without_privileges

FILE_LIMIT = 200_000
"""Bytes. A checkpoint has 314,000; every other file of a run is below half of the limit."""

DISK_SIZE = 6 << 20
"""Bytes of the file system that is filled: a run folder of these settings fits into it."""


def mount(folder: Path, size: int) -> bool:
    """Mount a tmpfs over a folder; False where that is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def unmount(folder: Path) -> None:
    """Unmount a folder, also one in use (-l)."""
    for extra in ([], ["-l"]):
        done = subprocess.run(["umount", *extra, str(folder)], capture_output=True, check=False)
        if done.returncode == 0:
            return


@cache
def may_mount() -> bool:
    """Whether this process may mount a tmpfs."""
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        if not mount(Path(folder), 1 << 16):
            return False
        unmount(Path(folder))
    return True


class FileLimit(LiveFault):
    """No file can grow to a checkpoint's size (EFBIG)."""

    name: ClassVar[str] = "file_limit"
    expected: ClassVar[str] = "exit code 2, one line that names the checkpoint; earlier ones stay"

    def strike(self, run: BrokenRun, child: Child) -> None:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(child.process.pid, resource.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT))

    def inspect(self, run: BrokenRun, child: Child, code: int) -> None:
        check_one_error(run, child, code, self.name, "checkpoint")


class DiskFull(LiveFault):
    """The file system, a tmpfs, is full (ENOSPC); file_limit without the right to mount one."""

    name: ClassVar[str] = "disk_full"
    expected: ClassVar[str] = "exit code 2, one line; resumes once there is room"

    def inject(self, run: BrokenRun) -> bool:
        if not may_mount():
            return FileLimit().inject(run)
        copy = run.home / "copy"
        run.folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(run.folder, copy)
        run.check(mount(run.folder, DISK_SIZE), f"{self.name}: tmpfs not mounted")
        try:
            shutil.copytree(copy, run.folder, dirs_exist_ok=True)
            shutil.rmtree(copy)
            hit = super().inject(run)
            shutil.copytree(run.folder, copy)
        finally:
            unmount(run.folder)
        shutil.rmtree(run.folder)
        copy.rename(run.folder)
        return hit

    def strike(self, run: BrokenRun, child: Child) -> None:
        with (run.folder / "filler").open("wb", buffering=0) as file:
            block = bytes(4096)
            try:
                while True:
                    file.write(block)
            except OSError:
                pass

    def repair(self, run: BrokenRun) -> None:
        (run.folder / "filler").unlink(missing_ok=True)

    def inspect(self, run: BrokenRun, child: Child, code: int) -> None:
        # no name is expected: a record may fail before a checkpoint, with another message
        check_one_error(run, child, code, self.name)
        told = "training ended early" in child.stdout and "the same command" in child.stdout
        run.check(told, f"{self.name}: it did not say how to continue")


class ReadOnly(LiveFault):
    """The folder of checkpoints becomes read-only."""

    name = "read_only"
    expected = "exit code 2, one line that names the checkpoint; resumes once it can write"

    def wrap(self, command: list[str]) -> list[str]:
        return without_privileges(command)

    def wait(self, run: BrokenRun, child: Child) -> bool:
        folder = run.folder / "checkpoints"
        return run.wait_for_moment(child) and child.wait_until(folder.is_dir)

    def strike(self, run: BrokenRun, child: Child) -> None:
        (run.folder / "checkpoints").chmod(0o555)

    def repair(self, run: BrokenRun) -> None:
        if (run.folder / "checkpoints").is_dir():
            (run.folder / "checkpoints").chmod(0o755)

    def inspect(self, run: BrokenRun, child: Child, code: int) -> None:
        check_one_error(run, child, code, self.name, "checkpoint")


class Vanish(LiveFault):
    """The run folder is renamed away."""

    name = "vanish"
    expected = "exit code 2, one line; no new folder is created in its place"

    def strike(self, run: BrokenRun, child: Child) -> None:
        run.folder.rename(self._away(run))

    def _away(self, run: BrokenRun) -> Path:
        return run.folder.with_name("away")

    def repair(self, run: BrokenRun) -> None:
        if not self._away(run).exists():
            return
        if run.folder.exists():
            made = sorted(str(path.relative_to(run.folder)) for path in run.folder.rglob("*"))
            run.check(False, f"{self.name}: the run created the folder again, with {made}")
            run.folder.rename(run.home / f"remade-{run.launches}")
        self._away(run).rename(run.folder)

    def inspect(self, run: BrokenRun, child: Child, code: int) -> None:
        check_one_error(run, child, code, self.name)
