"""Everything that a unit needs to know."""

import os
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import ProofOptions
from .results import Results

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""


@dataclass(frozen=True)
class Context:
    """Options, results, and where files may be put."""

    options: ProofOptions

    @cached_property
    def results(self) -> Results:
        return Results(self.out)

    @property
    def out(self) -> Path:
        return Path(self.options.out).resolve()

    @property
    def work(self) -> Path:
        """Folder of files that are needed to go on, and not afterwards."""
        return self.out / "work"

    @property
    def small(self) -> bool:
        """Whether this is a rehearsal."""
        return self.options.rehearse

    @property
    def device(self) -> "torch.device":
        import torch

        return torch.device("cpu" if self.small else "cuda")

    @cached_property
    def commit(self) -> str | None:
        """Commit of the checkout, "-dirty" if files were changed; None where there is no git."""
        if not (ROOT / ".git").exists():
            return None
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:  # no git
            return None
        return done.stdout.strip() or None

    def find_gpu(self) -> str | None:
        """Name of the GPU; None in a rehearsal and where there is none. Takes memory of the GPU."""
        import torch

        return None if self.small or not torch.cuda.is_available() else torch.cuda.get_device_name()

    def environment(self) -> dict[str, str]:
        """Environment of child processes: they find this checkout; a rehearsal sees no GPU."""
        paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        found = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
        if self.small:
            found |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        return found


class SkippedError(Exception):
    """A unit has nothing to do here; the message says why."""


class StoppedError(Exception):
    """A training was asked to stop and has saved: the unit stays as it is, to be gone on with."""


class PartialError(Exception):
    """A unit failed in part; the figures that it has are kept."""

    def __init__(self, message: str, figures: dict[str, Any]) -> None:
        super().__init__(message)
        self.figures = figures
