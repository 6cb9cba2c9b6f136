"""Options of `reproduce_run`."""

import math
from dataclasses import dataclass
from typing import ClassVar

from sslortho.options import Options, option


@dataclass(frozen=True, kw_only=True)
class ReproduceRunOptions(Options):
    """Run a finished run once more and compare the two, number by number. The folder of the run comes
    first on the command line.
    """

    command: ClassVar[str] = "reproduce_run"

    out: str | None = option(None, group="output", path=True)
    """Folder of the rerun. Default: that of the run, with -reproduced behind it."""
    tolerance: float = option(0.0, group="output")
    """Largest difference that passes, as a share of the largest number of the same tensor or of the
    same field of the records. 0: the same bits."""
    debug: bool = option(False, group="output", rare=True)
    """Show the traceback of a user's error."""

    def __post_init__(self) -> None:
        self._check("tolerance", 0 <= self.tolerance < math.inf, "0 or more, and finite")
        super().__post_init__()
