"""Learning rate schedules: pure functions from the step to a multiplier of the base rate."""

import math
from collections.abc import Sequence


def warmup_cosine(step: int, total_steps: int, warmup_steps: int = 0, final: float = 1e-3) -> float:
    """Linear from 0 over the warm-up, then half a cosine from 1 to `final`.

    The schedule of facebookresearch/barlowtwins (final 0.001). `step` counts from 0; at
    `total_steps` the cosine has arrived.
    """
    if step < warmup_steps:
        return step / warmup_steps
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return cosine + final * (1 - cosine)


def multi_step(step: int, milestones: Sequence[int], gamma: float = 0.1) -> float:
    """`gamma` to the number of milestones (in steps) that have been reached."""
    return gamma ** sum(step >= milestone for milestone in milestones)
