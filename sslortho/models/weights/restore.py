"""Loading of a file's weights into a backbone, and recognition of the backbone that they are of."""

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn

from sslortho.models.backbones import BACKBONES, TORCHVISION, Stem, create_backbone
from sslortho.models.weights.file import BackboneInfo, WeightsFile
from sslortho.models.weights.matching import OPTIONAL, Blueprint, Fit, closest_fit, complete_fits

_STEMS_TOLD_APART: dict[Stem, tuple[str, ...]] = {"stock": BACKBONES, "small": TORCHVISION}


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """Report of `load_backbone`; `str` of it is what the user is told."""

    file: str
    """Name of the file, and the place of the weights in it."""
    prefix: str
    """Beginning of the tensors' names in the file."""
    matched: int
    """Number of tensors loaded."""
    unused: dict[str, int] = field(default_factory=dict)
    """Modules of the file that were not used, with their number of tensors."""
    notes: tuple[str, ...] = ()
    """Remarks for the user."""

    def __str__(self) -> str:
        under = f" under {self.prefix!r}" if self.prefix else ""
        unused = ", ".join(f"{name} ({count})" for name, count in self.unused.items())
        first = f"{self.file}: {self.matched} tensors of the backbone{under}"
        return "\n".join([first + (f"; not used: {unused}" if unused else ""), *self.notes])


@dataclass(frozen=True, kw_only=True)
class RestoredBackbone:
    """A backbone with the weights of a file."""

    network: nn.Module
    """In evaluation mode, on the CPU."""
    name: str
    """Its name for `create_backbone`."""
    stem: Stem
    """Its stem for `create_backbone`; "stock" where a network has no other."""
    info: BackboneInfo | None
    """How it was pretrained; None if the file does not say."""
    report: LoadReport
    """Which tensors were loaded."""


def _some(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _normalised(prefix: str | None) -> str | None:
    return f"{prefix}." if prefix and not prefix.endswith(".") else prefix


@functools.cache
def _blueprint(name: str, stem: Stem) -> Blueprint:
    with torch.device("meta"):
        return Blueprint.of(create_backbone(name, stem))


def recognise(weights: WeightsFile, prefix: str | None = None) -> list[tuple[str, Stem]]:
    """Recognise weights: names and stems among BACKBONES whose tensors the file holds.

    It must hold all of them, and none of a larger network; a head may be there. The result is usually
    one pair. It is empty for timm's and other networks, and holds several pairs if the file holds
    several networks. The stem "solo_learn" has the same tensors as "small" and is never returned.

    Args:
        weights: result of `read_weights`.
        prefix: the only prefix to look under; None for all.
    """
    known: list[tuple[str, Stem]] = [
        (name, stem) for stem, names in _STEMS_TOLD_APART.items() for name in names
    ]
    prefix = _normalised(prefix)
    return [pair for pair in known if complete_fits(_blueprint(*pair), weights.state, prefix)]


def _hint(weights: WeightsFile, wanted: Blueprint, prefix: str | None) -> str:
    elsewhere = [repr(fit.prefix) for fit in complete_fits(wanted, weights.state)]
    if elsewhere:  # then not under the prefix that was given
        return f"they fit under {' and '.join(elsewhere)}, if weights_prefix says so"
    if known := recognise(weights, prefix):
        names = " or ".join(f"backbone={name!r}, stem={stem!r}" for name, stem in known)
        return f"these weights fit {names}"
    beginnings = sorted({".".join(name.split(".")[:2]) for name in weights.state})
    return (
        "these weights fit none of ours or torchvision's; timm's are backbone='timm:NAME'. Their "
        f"names begin with {_some(beginnings)}"
    )


def _misfit(weights: WeightsFile, wanted: Blueprint, prefix: str | None) -> str:
    best = closest_fit(wanted, weights.state, prefix)
    where = f" under {best.prefix!r}" if best.prefix else ""
    required = len(wanted.required)
    matched = sum(not name.endswith(OPTIONAL) for name in best.names)
    parts = [f"{matched} of the backbone's {required} tensors are in it{where}"]
    if best.missing:
        parts.append(f"missing: {_some(best.missing)}")
    if best.misshapen:
        shapes = (f"{k} {tuple(a)} there, {tuple(b)} here" for k, (a, b) in best.misshapen.items())
        parts.append(f"of another shape: {_some(shapes)}")
    if best.surplus:
        parts.append(f"layers that the backbone lacks: {_some(best.surplus)}")
    parts.append(_hint(weights, wanted, prefix))
    return f"backbone_from={str(weights.path)!r} does not fit the backbone: {'; '.join(parts)}"


def _same(one: Fit, other: Fit, state: dict[str, Tensor]) -> bool:
    keys = one.names.keys() & other.names.keys()
    return all(torch.equal(state[one.names[key]], state[other.names[key]]) for key in keys)


def _choose(weights: WeightsFile, fits: list[Fit]) -> tuple[Fit, list[str]]:
    """Choose one of several complete fits; the second result is a note that says why."""
    different: list[Fit] = []
    for fit in sorted(fits, key=lambda fit: fit.of_a_copy):
        if not any(
            _same(fit, other, weights.state) for other in different
        ):  # else the same weights
            different.append(fit)
    ours = [fit for fit in different if weights.inside == "task" and fit.prefix == "backbone."]
    if ours:  # `Task.backbone` is what a run exports
        return ours[0], []
    if len(different) == 1:
        return different[0], []
    originals = [fit for fit in different if not fit.of_a_copy]
    if len(originals) != 1:
        prefixes = ", ".join(repr(fit.prefix) for fit in different)
        raise ValueError(
            f"backbone_from={str(weights.path)!r} holds several such networks, under {prefixes}; "
            "say which by weights_prefix"
        )
    taken, copy = different[0], different[1]
    note = (
        f"took {taken.prefix!r}, not its moving average: weights_prefix={copy.prefix!r} takes that"
    )
    return taken, [note]


def _check_finite(weights: WeightsFile, values: dict[str, Tensor]) -> None:
    bad = [k for k, v in values.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if bad:
        raise ValueError(
            f"backbone_from={str(weights.path)!r} has weights that are not finite: {_some(bad)}; "
            "its training has diverged, give an earlier checkpoint"
        )


def _unused(state: dict[str, Tensor], fit: Fit) -> dict[str, int]:
    """Count the tensors that were not loaded, by module."""
    used = set(fit.names.values())
    beside = fit.prefix.split(".")[:-2]  # ["module"] of "module.backbone."
    groups: Counter[str] = Counter()
    for name in state:
        if name not in used:
            depth = 0
            path = name.split(".")
            while depth < len(beside) and path[depth] == beside[depth]:
                depth += 1
            inside = bool(fit.prefix) and name.startswith(fit.prefix)
            groups[".".join(path[: depth + 1 + inside])] += 1
    return dict(groups)


def _may_be_solo_learns(network: nn.Module, weights: WeightsFile, fit: Fit) -> bool:
    import torchvision  # slow to import

    return (
        weights.lightning
        and not fit.numbered
        and fit.prefix.endswith(("backbone.", "encoder."))
        and isinstance(network, torchvision.models.ResNet)
        and network.conv1.kernel_size == (3, 3)
        and network.conv1.padding == (1, 1)
    )


def load_backbone(
    backbone: nn.Module, weights: WeightsFile, prefix: str | None = None
) -> LoadReport:
    """Load the weights of a file into a backbone: all of its tensors, each with its own shape.

    The tensors are found by name under any prefix: "" (torchvision, timm), "backbone.", "encoder."
    (solo-learn), "module.backbone." (facebookresearch/barlowtwins), ... Children may be numbered, as in
    lightly's `nn.Sequential(*list(resnet.children())[:-1])`. Batch norm's `num_batches_tracked` may be
    missing. If several networks fit, one is taken only if all others are moving averages of it by
    their names (momentum, teacher, target, ema, key).

    Args:
        backbone: result of `create_backbone`, or any network that names its tensors as the file does.
        weights: result of `read_weights`.
        prefix: the only prefix to look under; its final dot may be left out. None for all.

    Raises:
        ValueError: the weights are those of another network, a larger one or several, or not finite.
    """
    prefix, blueprint = _normalised(prefix), Blueprint.of(backbone)
    fits = complete_fits(blueprint, weights.state, prefix)
    if not fits:
        raise ValueError(_misfit(weights, blueprint, prefix))
    fit, notes = _choose(weights, fits)
    values = {ours: weights.state[theirs] for ours, theirs in fit.names.items()}
    _check_finite(weights, values)
    backbone.load_state_dict({**backbone.state_dict(), **values})
    if _may_be_solo_learns(backbone, weights, fit):
        notes.append(
            "if solo-learn wrote it: its CIFAR networks pad by 2, which is stem 'solo_learn'"
        )
    return LoadReport(
        file=weights.path.name + (f" ({weights.inside})" if weights.inside else ""),
        prefix=fit.prefix,
        matched=len(fit.names),
        unused=_unused(weights.state, fit),
        notes=tuple(notes),
    )


def choose_architecture(
    weights: WeightsFile,
    backbone: str | None = None,
    stem: Stem | None = None,
    prefix: str | None = None,
) -> tuple[str, Stem]:
    """Name and stem of the network that the weights are of: as given, as the file says, or recognised.

    Raises:
        ValueError: the weights fit no known network, or several; the network does not have the stem.
    """
    known = (weights.info.backbone, weights.info.stem) if weights.info else None
    if known is None or backbone not in (None, known[0]):
        found = [pair for pair in recognise(weights, prefix) if backbone in (None, pair[0])]
        if backbone is None and len(found) != 1:
            what = f"several networks: {found}" if found else "no network of ours or torchvision's"
            under = "" if prefix is None else f" under weights_prefix={prefix!r}"
            raise ValueError(
                f"backbone_from={str(weights.path)!r} is recognised as {what}{under}; give backbone, the "
                "name of a network, such as resnet50 or timm:NAME"
            )
        known = found[0] if found else (backbone or "", "stock")
    name = known[0]
    if name not in TORCHVISION:
        if stem not in (None, "stock"):
            raise ValueError(
                f"stem={stem!r} has no effect on backbone={name!r}; it is for {', '.join(TORCHVISION)}"
            )
        return name, "stock"
    return name, stem or cast(Stem, known[1])


def restore_backbone(
    weights: WeightsFile,
    backbone: str | None = None,
    stem: Stem | None = None,
    prefix: str | None = None,
) -> RestoredBackbone:
    """Create the network that a file's weights are of, and load them.

    Args:
        weights: result of `read_weights`.
        backbone: name for `create_backbone`. None: as the file says, else as `recognise` finds.
        stem: stem for `create_backbone`. None: the same.
        prefix: see `load_backbone`.

    Raises:
        ValueError: see `choose_architecture`, `create_backbone` and `load_backbone`.
    """
    name, chosen = choose_architecture(weights, backbone, stem, prefix)
    network = create_backbone(name, chosen)
    report = load_backbone(network, weights, prefix)
    info = weights.info and replace(weights.info, backbone=name, stem=chosen)
    return RestoredBackbone(
        network=network.eval(), name=name, stem=chosen, info=info, report=report
    )
