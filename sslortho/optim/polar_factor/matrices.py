"""One thing to solve: a stack of matrices, and where their polar factors go."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from sslortho.optim.polar_factor.factor import stack_limit


@dataclass(frozen=True, eq=False)
class Matrices:
    """A stack of matrices of one shape, and where their polar factors go."""

    stack: Tensor
    """(number, rows, columns)."""
    out: Tensor
    """(number, rows, columns); may be the stack itself."""
    method: str = "auto"
    """See `sslortho.optim.polar`."""
    rank_tol: float | None = None
    """See `sslortho.optim.polar`."""

    @property
    def cost(self) -> int:
        """Operations, up to a factor: two products with the small side, and an eigenproblem on it.

        An eigendecomposition takes as long as about six products of its size (256 to 1024 rows: MKL
        on an AMD EPYC, 2026-11-24).
        """
        number, *sides = self.stack.shape
        small, large = sorted(sides)
        return number * (2 * small * small * large + 6 * small**3)

    def split(self) -> Iterator["Matrices"]:
        """Parts that are solved at a time."""
        step = stack_limit(self.stack)
        stacks, outs = self.stack.split(step), self.out.split(step)
        for stack, out in zip(stacks, outs, strict=True):
            yield Matrices(stack, out, self.method, self.rank_tol)
