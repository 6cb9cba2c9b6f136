"""Learning rate schedules: pure functions from the step to a multiplier of the base rate."""

import math
from collections.abc import Callable, Sequence


def warmup_cosine(step: int, total_steps: int, warmup_steps: int = 0, final: float = 1e-3) -> float:
    """Multiplier that rises linearly from 0 over the warm-up, then falls in half a cosine to `final`.

    The schedule of facebookresearch/barlowtwins, whose final is 0.001. `step` counts from 0; from
    `total_steps` on the multiplier is `final`.
    """
    if step < warmup_steps:
        return step / warmup_steps
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return cosine + final * (1 - cosine)


def multi_step(step: int, milestones: Sequence[int], gamma: float = 0.1) -> float:
    """Multiplier `gamma ** n` after n of the milestones (in steps) have been reached."""
    return gamma ** sum(step >= milestone for milestone in milestones)


def cosine_schedule(
    epochs: int, steps_per_epoch: int, warmup_epochs: float, final: float
) -> Callable[[int], float]:
    """`warmup_cosine` of a training: step to multiplier."""
    total, warmup = epochs * steps_per_epoch, round(warmup_epochs * steps_per_epoch)
    return lambda step: warmup_cosine(step, total, warmup, final)


def multi_step_schedule(
    milestones: Sequence[float], steps_per_epoch: int, warmup_epochs: float, gamma: float
) -> Callable[[int], float]:
    """Linear warm-up, then `multi_step`: step to multiplier. Milestones are in epochs."""
    warmup = round(warmup_epochs * steps_per_epoch)
    steps = [round(epochs * steps_per_epoch) for epochs in milestones]
    return lambda step: step / warmup if step < warmup else multi_step(step, steps, gamma)
