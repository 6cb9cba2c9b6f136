"""Weights that a file keeps in parts: those of weight norm, spectral norm and pruning, put together.

The formulas are those of torch.nn.utils in evaluation mode. Anything else is left as it is, and then
the tensor is missing, which `load_backbone` refuses.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

Recipe = tuple[str, tuple[str, ...], Callable[..., Tensor | None]]
"""Name for the report, endings of the parts, and the function from the parts to the weight."""


@dataclass(frozen=True)
class WholeState:
    """State dict in which the weights that were kept in parts stand beside their parts."""

    tensors: dict[str, Tensor]
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the weights that were put together, to those of their parts."""
    kinds: dict[str, str] = field(default_factory=dict)
    """The same names, to the kind: "weight_norm", ..."""
    unknown: dict[str, str] = field(default_factory=dict)
    """Names of weights that cannot be put together, to one of their parts."""

    @property
    def aside(self) -> frozenset[str]:
        """Names that do not count as layers of a larger network."""
        return frozenset([*self.parts, *(name for names in self.parts.values() for name in names)])


MOST_OFF = 0.1
"""Largest distance of a cosine from 1 by which the dimension of a spectral norm is known. It is 0 after a
forward pass, little after the optimizer's step, and near 1 for another dimension."""

_torch_weight_norm: Callable[[Tensor, Tensor, int], Tensor] = torch._weight_norm  # pyright: ignore[reportPrivateImportUsage]


def _weight_norm(g: Tensor, v: Tensor) -> Tensor | None:
    """Direction v with the norms g: w = g v / ||v|| (arXiv 1602.07868, equation 2)."""
    if g.numel() == 1:
        return _torch_weight_norm(v, g, -1) if g.ndim in (0, v.ndim) else None  # -1: over all of it
    along = [i for i in range(v.ndim) if g.ndim == v.ndim and g.shape[i] != 1]
    if len(along) != 1 or g.numel() != v.shape[along[0]]:
        return None
    return _torch_weight_norm(v, g, along[0])


def _spectral_norm(weight: Tensor, u: Tensor, v: Tensor) -> Tensor | None:
    """Weight over u^T W v, its largest singular value as the stored vectors give it (arXiv 1802.05957).

    The vectors' lengths tell which dimension was turned to the front: torch's `dim`, which no file holds.
    Where several fit (as many outputs as inputs), it is the one whose vectors are a step of the power
    method, u = W v / ||W v|| or v = W^T u / ||W^T u||; None where that does not tell.
    """
    if weight.is_meta:  # it has no numbers to tell by
        return None
    fitting: list[tuple[float, Tensor]] = []
    for dim in range(weight.ndim):
        matrix = weight.movedim(dim, 0).flatten(1)
        if u.shape == matrix.shape[:1] and v.shape == matrix.shape[1:]:
            steps = ((matrix @ v, u), (matrix.mT @ u, v))
            agreement = max(float(torch.cosine_similarity(*step, dim=0)) for step in steps)
            fitting.append((agreement, torch.dot(u, matrix @ v)))
    fitting.sort(key=lambda found: -found[0])
    if len(fitting) > 1:
        off, next_off = 1 - fitting[0][0], 1 - fitting[1][0]
        if off > MOST_OFF or next_off < 10 * off:
            return None
    return weight / fitting[0][1] if fitting else None


def _pruned(weight: Tensor, mask: Tensor) -> Tensor | None:
    return weight * mask if weight.shape == mask.shape else None


OLD: tuple[Recipe, ...] = (
    ("spectral_norm", ("_orig", "_u", "_v"), _spectral_norm),
    ("weight_norm", ("_g", "_v"), _weight_norm),
    ("pruning", ("_orig", "_mask"), _pruned),
)
"""Attributes of torch.nn.utils.spectral_norm, weight_norm and prune, after the weight's own name."""

NEW: tuple[Recipe, ...] = (
    ("weight_norm", ("original0", "original1"), _weight_norm),
    ("spectral_norm", ("original", "0._u", "0._v"), _spectral_norm),
)
"""Tensors of torch.nn.utils.parametrizations, after "parametrizations.weight."."""

_OLD_PART = re.compile(r"(?P<name>.*)_(?:g|orig)")
_NEW_PART = re.compile(r"(?P<owner>(?:.*\.)?)parametrizations\.(?P<name>[^.]+)\.")


def _put_together(
    whole: WholeState, name: str, beginning: str, endings: set[str], recipes: tuple[Recipe, ...]
) -> bool:
    """Add a weight to the state if one recipe takes exactly the tensors that there are."""
    for kind, wanted, compute in recipes:
        if set(wanted) == endings:
            parts = tuple(beginning + ending for ending in wanted)
            values = [whole.tensors[part] for part in parts]
            value = compute(*(v if v.dtype == torch.float64 else v.float() for v in values))
            if value is not None:
                whole.tensors[name] = value.to(whole.tensors[parts[-1]].dtype)
                whole.parts[name] = parts
                whole.kinds[name] = kind
                return True
    return False


def put_together(state: Mapping[str, Tensor]) -> WholeState:
    """Compute the weights that a state dict keeps in parts; all other tensors are as they were."""
    whole = WholeState(dict(state))
    new: dict[str, tuple[str, set[str]]] = {}
    old: dict[str, set[str]] = {}
    for name in state:
        if match := _NEW_PART.match(name):
            weight = match["owner"] + match["name"]
            new.setdefault(weight, (match[0], set()))[1].add(name[match.end() :])
        elif match := _OLD_PART.fullmatch(name):
            weight = match["name"]
            # another tensor, such as the _sigma of a bounded spectral norm, means another formula
            beside = (n.removeprefix(weight) for n in state if n.startswith(f"{weight}_"))
            old[weight] = {ending for ending in beside if "." not in ending}
    for weight, (beginning, endings) in new.items():
        if weight in state:  # a layer of its own by that name
            continue
        if not _put_together(whole, weight, beginning, endings, NEW):
            whole.unknown[weight] = beginning + min(endings)
    for weight, endings in old.items():
        if weight in state or len(endings) < 2:
            continue
        if not _put_together(whole, weight, weight, endings, OLD):
            whole.unknown[weight] = weight + min(endings)
    return whole
