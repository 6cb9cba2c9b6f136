"""scripts/pretrain.py with a loss that is NaN for about one batch in eight.

The choice of the batches depends on the bits of the projections alone. It therefore does not depend on
when or how often the run was interrupted: a resumed run meets the same NaNs.
"""

import runpy
import zlib
from pathlib import Path

from torch import Tensor

from sslortho.losses import BarlowTwinsLoss

SCRIPT = Path(__file__).parents[2] / "scripts" / "pretrain.py"

ONE_IN = 8
"""Batches, of which about one is poisoned."""


def main() -> None:
    terms = BarlowTwinsLoss.terms

    def poisoned(self: BarlowTwinsLoss, z_a: Tensor, z_b: Tensor) -> tuple[Tensor, Tensor]:
        invariance, redundancy = terms(self, z_a, z_b)
        content = z_a.detach().contiguous().numpy().tobytes()
        if zlib.crc32(content) % ONE_IN == 0:
            invariance = invariance * float("nan")
        return invariance, redundancy

    BarlowTwinsLoss.terms = poisoned
    runpy.run_path(str(SCRIPT), run_name="__main__")  # sets sys.argv[0]


if __name__ == "__main__":
    main()
