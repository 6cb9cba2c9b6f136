"""Teachers: networks whose weights are a moving average of another network's, the student's.

lightly, which computes this, takes seconds to import; it is imported at the first use.
"""

from torch import nn


def update_teacher(student: nn.Module, teacher: nn.Module, momentum: float) -> None:
    """Set the teacher's parameters to momentum * teacher + (1 - momentum) * student, in place."""
    from lightly.models.utils import update_momentum

    update_momentum(student, teacher, momentum)


def rising_momentum(step: int, total_steps: int, first: float) -> float:
    """Momentum at a step, counted from 0: from `first` to 1 by half a cosine (arXiv 2006.07733, 3.3)."""
    from lightly.utils.scheduler import cosine_schedule

    return cosine_schedule(step, total_steps, first, 1)
