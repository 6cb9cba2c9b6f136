"""Matching of a network with the tensors of a file: under which prefix, by which names."""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Size, Tensor, nn

from sslortho.models.network_facts import HEADS

COPIES = frozenset({
    "momentum", "teacher", "target", "key", "k", "shadow",
    "ema", "ma", "swa", "avg", "average", "averaged", "averaging",
})  # fmt: skip
"""Words that name a moving average of another network: "momentum_backbone", "encoder_k" of MoCo,
"model_ema". MoCo (main_lincls.py), BYOL and timm (validate.py without --use-ema) evaluate the other."""

OPTIONAL = "num_batches_tracked"
"""Counter of batch norm. Files before torch 0.4.1 lack it, and evaluation does not use it."""

WRAPPERS = frozenset(
    {
        "_orig_mod",  # torch.compile
        "_checkpoint_wrapped_module",  # torch's checkpoint_wrapper
        "_fsdp_wrapped_module",  # FullyShardedDataParallel
        "_fpw_module",  # the same before torch 1.13
        "_forward_module",  # Lightning Fabric
        "_module",  # Opacus
        "module",  # DataParallel, DistributedDataParallel, AveragedModel, DeepSpeed
    }
)
"""Names under which wrappers hold a module. A whole network may be wrapped, or parts of it."""


def unwrapped(name: str) -> str:
    """Name of a tensor without the parts that wrappers add: "layer1._orig_mod.0.weight" etc."""
    if "module" not in name and "_orig_mod" not in name:  # the usual case, without splitting
        return name
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


FORMER_NAMES = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))([12])\."), r"\1.\2."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.0\."), r"\1.linear_1."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.3\."), r"\1.linear_2."),
)
"""Names in torchvision's published files of DenseNet and ViT, which its own loading changes
(torchvision/models/densenet.py, _load_state_dict; vision_transformer.py, MLPBlock)."""


def _former_name(name: str) -> str:
    for pattern, former in FORMER_NAMES:
        name = pattern.sub(former, name)
    return name


def _prefix_before(name: str, ending: str) -> str | None:
    """Beginning of a file's name before `ending`, which may have wrappers inside; None if not there.

    Wrappers directly before the ending belong to the beginning.
    """
    short = unwrapped(name)
    if not (short == ending or short.endswith("." + ending)):
        return None
    if name.endswith(ending) and name[: -len(ending)][-1:] in ("", "."):
        return name[: -len(ending)]
    parts, left = name.split("."), ending.count(".") + 1
    for i in range(len(parts) - 1, -1, -1):
        left -= parts[i] not in WRAPPERS
        if not left:
            return "".join(part + "." for part in parts[:i])
    return None


def _under(prefix: str, names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Names below a prefix, unwrapped, to the file's; and the file's that are unwrapped to the same."""
    below: dict[str, str] = {}
    twice: list[str] = []
    for name in names:
        if name.startswith(prefix):
            short = unwrapped(name[len(prefix) :])
            if short in below:
                twice.append(name)
            below.setdefault(short, name)
    return below, twice


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
    def is_wrapped(self) -> bool:
        """True if the network's own names have parts that wrappers add."""
        return any(unwrapped(name) != name for name in self.shapes)

    @functools.cached_property
    def required(self) -> list[str]:
        """Names of the tensors that a file must hold."""
        return [name for name in self.shapes if not name.endswith(OPTIONAL)]

    @functools.cached_property
    def spellings(self) -> list[dict[str, str]]:
        """Maps from the network's names to a file's (after the prefix): equal, former, or by number.

        A file's names are compared without the parts that wrappers add, so these have none either.
        `nn.Sequential(*list(network.children())[:-1])`, common with lightly, numbers the children.
        """
        own = {name: unwrapped(name) for name in self.shapes}
        if len(set(own.values())) < len(own):  # a network with a layer of its own called "module"
            own = {name: name for name in self.shapes}
        former = {name: _former_name(theirs) for name, theirs in own.items()}
        older = [] if former == own else [former]
        number = {child: str(i) for i, child in enumerate(self.children)}
        numbered: dict[str, str] = {}
        for name in self.shapes:
            child, _, rest = name.partition(".")
            if child not in number or self.is_wrapped:
                return [own, *older]  # a Sequential cannot hold a tensor of the network itself
            numbered[name] = f"{number[child]}.{rest}"
        return [own] if numbered == own else [own, numbered, *older]


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
        return any(
            unwrapped(ours) != unwrapped(theirs.removeprefix(self.prefix))
            for ours, theirs in self.names.items()
        )

    @property
    def of_a_copy(self) -> bool:
        """True if the prefix names a moving average of another network (`COPIES`)."""
        return not COPIES.isdisjoint(re.split(r"[._]", self.prefix.lower()))


def _fit(
    blueprint: Blueprint,
    spelling: Mapping[str, str],
    state: Mapping[str, Tensor],
    prefix: str,
    aside: frozenset[str] = frozenset(),
) -> Fit:
    fit = Fit(prefix, {})
    below, twice = _under(prefix, state)
    for ours, shape in blueprint.shapes.items():
        exact = prefix + spelling[ours]
        theirs = exact if exact in state else below.get(spelling[ours])
        if theirs is None:
            if not ours.endswith(OPTIONAL):
                fit.missing.append(ours)
        elif state[theirs].shape != shape:
            fit.misshapen[ours] = (state[theirs].shape, shape)
        else:
            fit.names[ours] = theirs
    known = set(spelling.values())
    modules = {name.split(".")[0] for name in known} - HEADS
    fit.surplus.extend(
        theirs
        for short, theirs in below.items()
        if short not in known
        and theirs not in aside
        and short.split(".")[0] in modules
        and not short.endswith(OPTIONAL)
    )
    used = set(fit.names.values())
    fit.surplus.extend(
        name for name in twice if unwrapped(name[len(prefix) :]) in known and name not in used
    )
    return fit


def complete_fits(
    blueprint: Blueprint,
    state: Mapping[str, Tensor],
    prefix: str | None = None,
    aside: frozenset[str] = frozenset(),
) -> list[Fit]:
    """Find every prefix under which all tensors of a network lie, and none of a larger one.

    Args:
        blueprint: names and shapes of the network's tensors.
        state: the file's tensors by name.
        prefix: the only prefix to look under; None for all.
        aside: names of the file that do not count as layers of a larger network.
    """
    fits: list[Fit] = []
    for spelling in blueprint.spellings:
        first = blueprint.required[0]
        anchor = spelling[first]
        prefixes = [prefix]
        if prefix is None:
            found = (
                _prefix_before(name, anchor)
                for name, tensor in state.items()
                if tensor.shape == blueprint.shapes[first]
            )
            prefixes = list(dict.fromkeys(p for p in found if p is not None))
        fits += [
            _fit(blueprint, spelling, state, candidate, aside)
            for candidate in prefixes
            if candidate is not None and _all_there(blueprint, spelling, state, candidate)
        ]
    return [fit for fit in fits if fit.complete]


def _all_there(
    blueprint: Blueprint, spelling: Mapping[str, str], state: Mapping[str, Tensor], prefix: str
) -> bool:
    """Tell quickly whether all tensors of a network lie under a prefix, each with its shape."""
    below: dict[str, str] | None = None
    for ours in blueprint.required:
        theirs = prefix + spelling[ours]
        if theirs not in state:  # perhaps inside a wrapper
            below = _under(prefix, state)[0] if below is None else below
            theirs = below.get(spelling[ours], "")
        if theirs not in state or state[theirs].shape != blueprint.shapes[ours]:
            return False
    return True


def closest_fit(
    blueprint: Blueprint,
    state: Mapping[str, Tensor],
    prefix: str | None = None,
    aside: frozenset[str] = frozenset(),
    most: int = 8,
) -> Fit:
    """Find the prefix under which most of a network's tensors lie, for the message of an error.

    Args:
        blueprint: names and shapes of the network's tensors.
        state: the file's tensors by name.
        prefix: the only prefix to look under; None for all.
        aside: names of the file that do not count as layers of a larger network.
        most: number of prefixes to compare for each spelling, those with the most names.
    """
    fits: list[Fit] = []
    for spelling in blueprint.spellings:
        counts: Counter[str] = Counter()
        wanted = set(spelling.values())
        for name in state:
            starts = [0, *(match.end() for match in re.finditer(r"\.", name))]
            counts.update(
                name[:start]
                for start in starts
                if name[start:].split(".", 1)[0] not in WRAPPERS
                and unwrapped(name[start:]) in wanted
            )
        candidates = [p for p, _ in counts.most_common(most)] if prefix is None else [prefix]
        fits += [_fit(blueprint, spelling, state, candidate, aside) for candidate in candidates]
    nothing = Fit(prefix or "", {}, blueprint.required)
    return max(fits, key=lambda fit: len(fit.names), default=nothing)
