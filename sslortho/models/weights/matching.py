"""Matching of a network with the tensors of a file: under which prefix, by which names."""

import functools
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Size, Tensor, nn

HEADS = frozenset({"fc", "head", "heads", "classifier", "head_dist", "last_linear"})
"""Top-level modules after the features. A file may hold them although the backbone lacks them."""

COPIES = frozenset({"momentum", "teacher", "target", "ema", "key", "k", "ma", "shadow"})
"""Words that name a moving average of another network: "momentum_backbone", "encoder_k" of MoCo,
"model_ema"."""

OPTIONAL = "num_batches_tracked"
"""Counter of batch norm. Files before torch 0.4.1 lack it, and evaluation does not use it."""


@dataclass(frozen=True)
class Blueprint:
    """Names and shapes of a network's tensors."""

    shapes: dict[str, Size]
    children: tuple[str, ...]
    """Names of the network's own children, in order."""

    @classmethod
    def of(cls, network: nn.Module) -> "Blueprint":
        """Blueprint of a network, which may lie on the meta device."""
        shapes = {name: value.shape for name, value in network.state_dict().items()}
        return cls(shapes, tuple(name for name, _ in network.named_children()))

    @functools.cached_property
    def required(self) -> list[str]:
        """Names of the tensors that a file must hold."""
        return [name for name in self.shapes if not name.endswith(OPTIONAL)]

    @functools.cached_property
    def spellings(self) -> list[dict[str, str]]:
        """Maps from the network's names to a file's (after the prefix): equal, or children by number.

        `nn.Sequential(*list(network.children())[:-1])`, common with lightly, numbers the children.
        """
        own = {name: name for name in self.shapes}
        number = {child: str(i) for i, child in enumerate(self.children)}
        numbered: dict[str, str] = {}
        for name in self.shapes:
            child, _, rest = name.partition(".")
            if child not in number:  # a Sequential cannot hold a tensor of the network itself
                return [own]
            numbered[name] = f"{number[child]}.{rest}"
        return [own] if numbered == own else [own, numbered]


@dataclass(frozen=True)
class Fit:
    """Comparison of a network with the tensors under one prefix."""

    prefix: str
    """Empty, or with a dot at its end."""
    names: dict[str, str]
    """The network's names to the file's, where both name and shape fit."""
    missing: list[str] = field(default_factory=list)
    """Names of the network that the file lacks."""
    misshapen: dict[str, tuple[Size, Size]] = field(default_factory=dict)
    """Names of the network to two shapes that differ: in the file, in the network."""
    surplus: list[str] = field(default_factory=list)
    """Names of the file, inside the network's modules, that the network lacks: those of a larger one."""

    @property
    def complete(self) -> bool:
        """True if the tensors are those of this network."""
        return not (self.missing or self.misshapen or self.surplus)

    @property
    def numbered(self) -> bool:
        """True if the file names the children by number."""
        return any(self.prefix + ours != theirs for ours, theirs in self.names.items())

    @property
    def of_a_copy(self) -> bool:
        """True if the prefix names a moving average of another network (`COPIES`)."""
        return not COPIES.isdisjoint(re.split(r"[._]", self.prefix.lower()))


def _fit(
    blueprint: Blueprint, spelling: Mapping[str, str], state: Mapping[str, Tensor], prefix: str
) -> Fit:
    fit = Fit(prefix, {})
    for ours, shape in blueprint.shapes.items():
        theirs = prefix + spelling[ours]
        if theirs not in state:
            if not ours.endswith(OPTIONAL):
                fit.missing.append(ours)
        elif state[theirs].shape != shape:
            fit.misshapen[ours] = (state[theirs].shape, shape)
        else:
            fit.names[ours] = theirs
    known = {prefix + name for name in spelling.values()}
    modules = {name.split(".")[0] for name in spelling.values()} - HEADS
    fit.surplus.extend(
        name
        for name in state
        if name.startswith(prefix)
        and name not in known
        and name[len(prefix) :].split(".")[0] in modules
        and not name.endswith(OPTIONAL)
    )
    return fit


def complete_fits(
    blueprint: Blueprint, state: Mapping[str, Tensor], prefix: str | None = None
) -> list[Fit]:
    """Find every prefix under which all tensors of a network lie, and none of a larger one.

    Args:
        blueprint: names and shapes of the network's tensors.
        state: the file's tensors by name.
        prefix: the only prefix to look under; None for all.
    """
    fits: list[Fit] = []
    for spelling in blueprint.spellings:
        anchor = spelling[blueprint.required[0]]
        prefixes = [
            name[: -len(anchor)]
            for name in state
            if name.endswith(anchor) and name[: -len(anchor)][-1:] in ("", ".")
        ]
        for candidate in prefixes if prefix is None else [prefix]:
            theirs = ((state.get(candidate + spelling[name]), name) for name in blueprint.required)
            if all(t is not None and t.shape == blueprint.shapes[name] for t, name in theirs):
                fits.append(_fit(blueprint, spelling, state, candidate))
    return [fit for fit in fits if fit.complete]


def closest_fit(
    blueprint: Blueprint, state: Mapping[str, Tensor], prefix: str | None = None, most: int = 8
) -> Fit:
    """Find the prefix under which most of a network's tensors lie, for the message of an error.

    Args:
        blueprint: names and shapes of the network's tensors.
        state: the file's tensors by name.
        prefix: the only prefix to look under; None for all.
        most: number of prefixes to compare for each spelling, those with the most names.
    """
    fits: list[Fit] = []
    for spelling in blueprint.spellings:
        counts: Counter[str] = Counter()
        wanted = set(spelling.values())
        for name in state:
            starts = [0, *(match.end() for match in re.finditer(r"\.", name))]
            counts.update(name[:start] for start in starts if name[start:] in wanted)
        candidates = [p for p, _ in counts.most_common(most)] if prefix is None else [prefix]
        fits += [_fit(blueprint, spelling, state, candidate) for candidate in candidates]
    nothing = Fit(prefix or "", {}, blueprint.required)
    return max(fits, key=lambda fit: len(fit.names), default=nothing)
