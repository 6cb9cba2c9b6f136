"""Where in a file's tensors a network lies: under which prefix, by which names."""

import functools
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Size, Tensor, nn

HEADS = frozenset({"fc", "head", "heads", "classifier", "head_dist", "last_linear"})
"""Modules after the features; a network without a classifier may leave over parts of its own."""

COPIES = frozenset({"momentum", "teacher", "target", "ema", "key", "k", "ma", "shadow"})
"""Words in the name of a network that follows another by a moving average: "momentum_backbone",
"encoder_k" of MoCo, "model_ema"."""

OPTIONAL = "num_batches_tracked"
"""Batch norm's counter, which files before torch 0.4.1 lack and evaluation does not use."""


@dataclass(frozen=True)
class Blueprint:
    """Names and shapes of a network's tensors."""

    shapes: dict[str, Size]
    children: tuple[str, ...]
    """Of the network itself, in order."""

    @classmethod
    def of(cls, network: nn.Module) -> "Blueprint":
        """That of a network, which may lie on the meta device."""
        shapes = {name: value.shape for name, value in network.state_dict().items()}
        return cls(shapes, tuple(name for name, _ in network.named_children()))

    @functools.cached_property
    def required(self) -> list[str]:
        """Names that weights must have."""
        return [name for name in self.shapes if not name.endswith(OPTIONAL)]

    @functools.cached_property
    def spellings(self) -> list[dict[str, str]]:
        """Names of the tensors in a file (after the prefix): the network's own, and by number.

        `nn.Sequential(*list(network.children())[:-1])`, lightly's habit, numbers the children.
        """
        own = {name: name for name in self.shapes}
        number = {child: str(i) for i, child in enumerate(self.children)}
        numbered: dict[str, str] = {}
        for name in self.shapes:
            child, _, rest = name.partition(".")
            if child not in number:  # a tensor of the network itself has no place in a Sequential
                return [own]
            numbered[name] = f"{number[child]}.{rest}"
        return [own] if numbered == own else [own, numbered]


@dataclass(frozen=True)
class Fit:
    """A network beside the tensors under one prefix."""

    prefix: str
    """Empty, or with a dot at its end."""
    names: dict[str, str]
    """The network's names to the file's, where both name and shape fit."""
    missing: list[str] = field(default_factory=list)
    """Names of the network that are not there."""
    misshapen: dict[str, tuple[Size, Size]] = field(default_factory=dict)
    """Names of the network to the shapes (there, here) where they differ."""
    surplus: list[str] = field(default_factory=list)
    """Names of the file inside the network's own modules that the network lacks: a larger one's."""

    @property
    def complete(self) -> bool:
        """Whether the tensors are this network's."""
        return not (self.missing or self.misshapen or self.surplus)

    @property
    def numbered(self) -> bool:
        """Whether children go by number in the file."""
        return any(self.prefix + ours != theirs for ours, theirs in self.names.items())

    @property
    def of_a_copy(self) -> bool:
        """Whether its name is that of a moving average of another network."""
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
    """Every place where a network lies whole.

    Args:
        blueprint: of the network.
        state: the file's tensors by name.
        prefix: the only one to look under; None for all.
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
    """Where the most of a network's tensors lie, for an error to tell what is wrong.

    Args:
        blueprint: of the network.
        state: the file's tensors by name.
        prefix: the only one to look under; None for all.
        most: prefixes tried for each spelling, those with the most names.
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
