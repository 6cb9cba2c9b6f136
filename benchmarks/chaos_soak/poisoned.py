"""scripts/pretrain.py with a loss that is NaN for about one batch in eight.

Which ones depends on the projections alone, to the last bit, and so neither on when nor on how often a
run was interrupted: a run that is resumed must meet the same.
"""

import runpy
import sys
import zlib
from pathlib import Path

from torch import Tensor

from sslortho.losses import BarlowTwinsLoss

ONE_IN = 8


def main() -> None:
    terms = BarlowTwinsLoss.terms

    def poisoned(self: BarlowTwinsLoss, z_a: Tensor, z_b: Tensor) -> tuple[Tensor, Tensor]:
        invariance, redundancy = terms(self, z_a, z_b)
        content = z_a.detach().contiguous().numpy().tobytes()
        if zlib.crc32(content) % ONE_IN == 0:
            invariance = invariance * float("nan")
        return invariance, redundancy

    BarlowTwinsLoss.terms = poisoned
    script = str(Path(__file__).parent.parent / "pretrain.py")
    sys.argv[0] = script
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
