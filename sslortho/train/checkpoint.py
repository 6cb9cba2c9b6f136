"""Checkpoints that are either whole or absent, verified by a checksum in their name."""

import errno
import hashlib
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from sslortho.atomic import atomic_file

FORMAT = 1
"""Version of the checkpoint's layout."""

DIGITS = 16
"""Hexadecimal digits of the SHA-256 (of 64) in a checkpoint's name; torch.hub takes 8."""

NAME = re.compile(rf"step-(\d+)-([0-9a-f]{{{DIGITS}}})\.pt")


class _Digesting:
    """File for torch.save that also computes the SHA-256 of the bytes written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        try:
            self.digest.update(data)
            return self.file.write(data)
        except BaseException as error:
            self.error = error  # torch reports it as a wrong position in the file
            raise

    def flush(self) -> None:
        self.file.flush()


def _save(content: dict[str, Any], file: _Digesting) -> None:
    try:
        torch.save(content, file)  # pyright: ignore[reportArgumentType]
    except Exception as error:
        raise file.error or error from None


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:DIGITS]


def _step(path: Path) -> int:
    """Step in a checkpoint's name; -1 if there is none."""
    found = re.match(r"step-(\d+)", path.name)
    return int(found[1]) if found else -1


def _same_value(stored: Any, value: Any) -> bool:
    """Whether an option has the value that is stored; versions up to 0.1 stored paths unexpanded."""
    if isinstance(stored, str) and stored.startswith("~"):
        return value in (stored, os.path.expanduser(stored))  # noqa: PTH111 - as options.Options
    return stored == value


def _may_pass(error: Exception) -> bool:
    """Whether an error in reading a file is of the moment (memory, rights, a server), not of the file."""
    if isinstance(error, OSError):
        return error.errno not in (errno.EIO, None)
    # torch raises RuntimeError where it finds no memory
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


class RefusedError(Exception):
    """A checkpoint is not used, for the reason given."""


class CheckpointFolder:
    """A run's checkpoints, `step-00000042-5f70bf18a0860070.pt`, the newest few kept.

    The second part of a name is the beginning of the file's SHA-256 (`sha256sum` shows it). A file that
    is truncated, has a wrong bit or comes from elsewhere is not used.

    Args:
        path: the folder; created at the first save, in a run folder that exists.
        keep_last: how many to keep, 1 or more.
        expected: options that the weights depend on; a checkpoint whose "config" has other values
            belongs to another run and is not used.
    """

    def __init__(
        self, path: Path, keep_last: int = 2, expected: Mapping[str, Any] | None = None
    ) -> None:
        if keep_last < 1:
            raise ValueError(f"keep_last={keep_last} must be 1 or more")
        self.path = path
        self.keep_last = keep_last
        self.expected = expected or {}
        self._foreign: set[Path] = set()
        self._refused: set[Path] = set()
        self._peeked: tuple[list[Path], dict[str, Any] | None] | None = None

    def list(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(self.path.glob("step-*.pt"))

    def save(self, state: dict[str, Any], step: int) -> Path:
        """Write one checkpoint, then remove what is older than the newest `keep_last`.

        Raises OSError, having left the others as they were, if it cannot be written.
        """
        try:
            path = self._write(state, step)
        except OSError as error:
            raise OSError(
                f"the checkpoint of step {step} could not be written to {self.path} "
                f"({error.strerror or error}); {self.describe_last()}"
            ) from error
        self._remove_others(path, step)
        return path

    def _write(self, state: dict[str, Any], step: int) -> Path:
        self.path.mkdir(exist_ok=True)  # and not its parents: a run folder that vanished stays so
        path = self.path / f"step-{step:08d}.pt"

        def final() -> Path:
            return path.with_stem(f"{path.stem}-{writer.digest.hexdigest()[:DIGITS]}")

        with atomic_file(path, final) as file:
            writer = _Digesting(file)
            _save({"format": FORMAT, **state}, writer)
        return final()

    def _remove_others(self, path: Path, step: int) -> None:
        others = [other for other in self.list() if other != path]
        for other in others:
            if other in self._foreign:  # perhaps the only copy of somebody's run
                other.rename(other.with_name(f"foreign-{other.name}"))
            elif _step(other) == step or (_step(other) > step and other in self._refused):
                other.unlink()
        # a newer one that was not refused is another process's, which went on meanwhile
        older = [other for other in self.list() if _step(other) < step]
        for old in older[: 1 - self.keep_last or None]:
            old.unlink()
        for partial in self.path.glob(".step-*.partial"):  # of processes that were killed
            partial.unlink()

    def describe_last(self) -> str:
        """Say in words from where training can resume."""
        paths = self.list()
        if not paths:
            return "there is no checkpoint, so the same command starts from the beginning"
        return f"the same command resumes from {paths[-1]}"

    def peek(self) -> dict[str, Any] | None:
        """`load_latest`, whose next call returns the same without reading it again.

        Unless the checkpoints are others by then: another process may have worked here meanwhile.
        """
        listed = self.list()
        self._peeked = listed, self.load_latest()
        return self._peeked[1]

    def load_latest(self) -> dict[str, Any] | None:
        """The newest checkpoint that is whole and of this run, on the CPU; None where there is none.

        Warns of each that is not. Raises ValueError if there are some but none is, and OSError if one
        cannot be read at the moment: going on from an older one would lose steps.
        """
        paths, peeked = self.list(), self._peeked
        self._peeked = None
        if peeked is not None and peeked[0] == paths:
            return peeked[1]
        for path in reversed(paths):
            try:
                return self._read(path)
            except RefusedError as error:
                self._refused.add(path)
                warnings.warn(
                    f"checkpoint {path} is not used: {error}; trying the one before it",
                    stacklevel=2,
                )
        if paths:
            raise ValueError(
                f"none of the {len(paths)} checkpoints in {self.path} can be used; "
                "remove the folder to start over"
            )
        return None

    def _read(self, path: Path) -> dict[str, Any]:
        name = NAME.fullmatch(path.name)
        if not name:
            raise RefusedError("its name has no checksum, so it was not written by this version")
        try:
            if _digest(path) != name[2]:
                raise RefusedError("its content does not have the checksum in its name (damaged)")
            state = torch.load(path, map_location="cpu", weights_only=True)
        except RefusedError:
            raise
        except Exception as error:  # torch raises half a dozen kinds for a damaged file
            reason = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
            if _may_pass(error):
                raise OSError(
                    f"checkpoint {path} cannot be read now ({reason}); once it can, the same command resumes"
                ) from error
            raise RefusedError(f"it cannot be read ({reason})") from error
        if not isinstance(state, dict) or "format" not in state:
            raise RefusedError("torch.save wrote it, but not as a checkpoint")
        if state["format"] != FORMAT:
            raise ValueError(
                f"checkpoint {path} has format {state['format']}, this version reads "
                f"{FORMAT}; use the version that wrote it, or another --out"
            )
        self._check_run(path, state.get("config", {}))
        return state

    def _check_run(self, path: Path, config: Mapping[str, Any]) -> None:
        different = [
            f"{name} {config[name]!r} there, {value!r} here"
            for name, value in self.expected.items()
            if name in config and not _same_value(config[name], value)
        ]
        if different:
            self._foreign.add(path)
            raise RefusedError(f"it is of another run ({'; '.join(different)})")
