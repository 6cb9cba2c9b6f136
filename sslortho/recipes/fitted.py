"""Options that are left out and fitted to the data: what was chosen, and why. Imports no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from sslortho.options import Options
from sslortho.recipes.options import TrainingOptions

Some = TypeVar("Some", bound=Options)
Value = TypeVar("Value")

STEPS_AN_EPOCH = 4
"""Steps of an epoch that a batch of the usual size is made smaller for."""


@dataclass(frozen=True)
class Choice:
    """A value that was chosen for an option, with the reason."""

    value: Any
    reason: str
    """Rule that the value follows, in words."""
    tested: str
    """Where the value was tried at such a scale, or that it never was."""

    def __str__(self) -> str:
        parts = [part for part in (self.reason, self.tested) if part]
        return "; ".join(parts)


def fit_batch(usual: int, images: int, steps: int = 1) -> Choice:
    """Samples of a step: the usual number, or fewer where there are few images.

    Args:
        usual: batch of larger data; kept as long as it gives that many steps an epoch.
        images: number of training images.
        steps: at most STEPS_AN_EPOCH.
    """
    if usual * steps <= images:
        return Choice(usual, "the usual batch", "")
    most = max(2, images // STEPS_AN_EPOCH)
    reason = f"the largest power of two that gives {images} images {STEPS_AN_EPOCH} steps an epoch"
    return Choice(1 << (most.bit_length() - 1), reason, "")


def choose_batch(options: TrainingOptions, usual: int, images: int) -> dict[str, Choice]:
    """The batch, as `fit_batch` has it, by the name of its option; nothing if it was given."""
    if options.batch_size is not None:
        return {}
    return {"batch_size": fit_batch(usual, images)}


def fill(options: Some, chosen: Mapping[str, Choice]) -> Some:
    """The options with the chosen values in place of those that were left out."""
    return replace(options, **{name: choice.value for name, choice in chosen.items()})  # pyright: ignore[reportArgumentType]


def to_plain(chosen: Mapping[str, Choice]) -> dict[str, dict[str, Any]]:
    """The choices as summary.json and checkpoints hold them."""
    return {name: asdict(choice) for name, choice in chosen.items()}


def settled(value: Value | None) -> Value:
    """Value of an option that `fill` has given one."""
    assert value is not None
    return value
