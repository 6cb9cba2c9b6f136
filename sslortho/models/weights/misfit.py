"""Words for the difference between a network and the tensors of a file."""

from collections.abc import Iterable

from sslortho.models.weights.matching import Fit
from sslortho.models.weights.parametrized import WholeState


def some(names: Iterable[str], most: int = 3) -> str:
    """First names of several, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def describe_misfit(best: Fit, whole: WholeState) -> list[str]:
    """Parts of a message: which tensors are missing, of another shape, or too many."""
    parts: list[str] = []
    if best.missing:
        parts.append(f"missing: {some(best.missing)}")
    parted = [f"{best.prefix}{name}" for name in best.missing]
    if unknown := [name for name in parted if name in whole.unknown]:
        parts.append(
            f"{unknown[0]} is parametrised in the file ({whole.unknown[unknown[0]]}): call torch.nn.utils."
            "parametrize.remove_parametrizations, or the function's own remove, where it comes from"
        )
    if best.misshapen:
        shapes = (f"{k} {tuple(a)} there, {tuple(b)} here" for k, (a, b) in best.misshapen.items())
        parts.append(f"of another shape: {some(shapes)}")
    if best.surplus:
        parts.append(f"layers that the backbone lacks: {some(best.surplus)}")
    return parts
