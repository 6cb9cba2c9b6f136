"""Checkpoints that are either whole or not there."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from sslortho.atomic import atomic_file

FORMAT = 1
"""Version of the checkpoint's layout."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Have `write` fill a file that takes the place of `path` once it is whole: `atomic_file`."""
    with atomic_file(path) as file:
        write(file)


class CheckpointFolder:
    """A run's checkpoints, `step-00000042.pt`, the newest few kept.

    Args:
        path: the folder; made on the first save.
        keep_last: how many to keep, 1 or more.
    """

    def __init__(self, path: Path, keep_last: int = 2) -> None:
        if keep_last < 1:
            raise ValueError(f"keep_last={keep_last} must be 1 or more")
        self.path = path
        self.keep_last = keep_last

    def list(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(self.path.glob("step-*.pt"))

    def save(self, state: dict[str, Any], step: int) -> Path:
        """Write one checkpoint, then remove what is older than the newest `keep_last`."""
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / f"step-{step:08d}.pt"
        write_atomically(path, lambda file: torch.save({"format": FORMAT, **state}, file))
        others = self.list()
        stale = [other for other in others if other.name > path.name]  # could not be read, then
        for old in stale + [other for other in others if other not in stale][: -self.keep_last]:
            old.unlink()
        for partial in self.path.glob(".step-*.partial"):  # of processes that were killed
            partial.unlink()
        return path

    def load_latest(self) -> dict[str, Any] | None:
        """The newest checkpoint that can be read, on the CPU; None where there is none.

        Raises ValueError if there are some but none can be read.
        """
        paths = self.list()
        for path in reversed(paths):
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # torch raises half a dozen kinds for a damaged file
                warnings.warn(
                    f"checkpoint {path} cannot be read ({type(error).__name__}: {error}); "
                    "trying the one before it",
                    stacklevel=2,
                )
                continue
            if state.get("format") != FORMAT:
                raise ValueError(
                    f"checkpoint {path} has format {state.get('format')}, this version reads "
                    f"{FORMAT}; use the version that wrote it, or another --out"
                )
            return state
        if paths:
            raise ValueError(
                f"none of the {len(paths)} checkpoints in {self.path} can be read; "
                "remove the folder to start over"
            )
        return None
