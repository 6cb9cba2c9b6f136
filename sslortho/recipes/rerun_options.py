"""What reproduce_run.py can be told, beside the folder of a run."""

import math
from dataclasses import dataclass

from sslortho.recipes.options import Checked


@dataclass(frozen=True, kw_only=True)
class ReproduceRunOptions(Checked):
    """Run a finished run once more and compare the two, number by number. The folder of the run comes
    first on the command line.
    """

    out: str | None = None
    """Folder of the rerun. Default: that of the run, with -reproduced behind it."""
    tolerance: float = 0.0
    """Largest difference that passes, as a share of the largest number of the same tensor or of the
    same field of the records. 0: the same bits."""
    debug: bool = False
    """Show the traceback of an error that is the user's."""

    def __post_init__(self) -> None:
        self._check("tolerance", 0 <= self.tolerance < math.inf, "0 or more, and finite")
        super().__post_init__()
