"""A disk without room: a limit on the size of a file, or a real, small file system filled up."""

import contextlib
import os
import resource
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import ClassVar

from chaos_soak.broken_run import BrokenRun
from chaos_soak.faults import LiveFault, check_one_error
from chaos_soak.processes import Child

FILE_LIMIT = 200_000
"""Bytes: a checkpoint has 314,000, every other file of a run less than half of the limit."""

DISK_SIZE = 6 << 20


def mount(folder: Path, size: int) -> bool:
    """A tmpfs over a folder; False where that is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def unmount(folder: Path) -> None:
    """Take it off, even if somebody looks into it."""
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
    """The file system is full (ENOSPC), on a tmpfs; without the right to mount one, as file_limit."""

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
        # what fails first may be a record, which has a line of its own
        check_one_error(run, child, code, self.name)
        told = "training ended early" in child.stdout and "the same command" in child.stdout
        run.check(told, f"{self.name}: it did not say how to go on")
