"""Teachers: networks whose weights are a moving average of another network's, the student's.

The schedule of the momentum is lightly's, which takes seconds to import: it is imported at the first use.
"""

# torch exports its foreach functions to optimizers, but not by name
# pyright: reportPrivateImportUsage=false

from typing import Any

import torch
from torch import Tensor, nn

from sslortho.optim.gradients import is_sharded
from sslortho.optim.precision import HALF_PRECISION, all_in_float32


def _average(averages: list[Tensor], values: list[Tensor], momentum: float) -> None:
    """Set averages to momentum * average + (1 - momentum) * value, all in two calls."""
    torch._foreach_mul_(averages, momentum)
    torch._foreach_add_(averages, values, alpha=1 - momentum)


def _place_like(copy: Tensor, parameter: Tensor) -> Tensor:
    """A copy on its parameter's device, and split among the ranks where the parameter is."""
    copy = copy.to(parameter.device)
    if is_sharded(copy) or not is_sharded(parameter):
        return copy
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    # restored whole on every rank: none needs to be sent its part
    return distribute_tensor(copy, parameter.device_mesh, parameter.placements, src_data_rank=None)


class MovingAverage(nn.Module):
    """Moving average of parameters, exact also where the teacher's are of half precision.

    A step changes a weight by the share 1 - momentum of a difference. That is less than the rounding of
    half precision, so the weight would never move. Of such weights a float32 copy is averaged, and the
    teacher has its rounded values. The copies are part of the state dict, so that a resumed run continues
    exactly. Without weights of half precision there is no copy, and the state dict is empty.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[Tensor] = []

    @torch.no_grad()
    def update(
        self, student: tuple[nn.Module, ...], teacher: tuple[nn.Module, ...], momentum: float
    ) -> None:
        """Set the teacher's parameters to momentum * teacher + (1 - momentum) * student, in place.

        Args:
            student, teacher: modules of the same parameters, pair by pair, the same at every call.
            momentum: from 0 to 1.
        """
        ours: list[Tensor] = [p for module in teacher for p in module.parameters()]
        theirs: list[Tensor] = [p for module in student for p in module.parameters()]
        if not any(p.dtype in HALF_PRECISION for p in ours):
            self.copies = []
            _average(ours, theirs, momentum)
            return
        self.copies = self.copies or [p.detach().clone() for p in ours]
        self.copies = all_in_float32(
            [_place_like(c, p) for c, p in zip(self.copies, ours, strict=True)]
        )
        _average(self.copies, all_in_float32(theirs), momentum)
        for parameter, copy in zip(
            ours, self.copies, strict=True
        ):  # _foreach_copy_ takes no DTensor
            parameter.copy_(copy)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination.update({f"{prefix}{i}": copy for i, copy in enumerate(self.copies)})

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *_: Any) -> None:
        count = sum(key.startswith(prefix) for key in state_dict)
        self.copies = [state_dict[f"{prefix}{i}"].detach().clone() for i in range(count)]


def rising_momentum(step: int, total_steps: int, first: float) -> float:
    """Momentum at a step, counted from 0: from `first` to 1 by half a cosine (arXiv 2006.07733, 3.3)."""
    from lightly.utils.scheduler import cosine_schedule

    return cosine_schedule(step, total_steps, first, 1)
