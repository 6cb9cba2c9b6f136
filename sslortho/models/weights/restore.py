"""Loading of a file's weights into a backbone."""

from collections import Counter
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from sslortho.models.backbones import Stem, create_backbone
from sslortho.models.network_facts import required_size
from sslortho.models.torchvision_networks import MIXED_INPUT
from sslortho.models.weights.architecture import choose_architecture
from sslortho.models.weights.choice import choose_fit
from sslortho.models.weights.file import BackboneInfo, WeightsFile, note_pretraining
from sslortho.models.weights.matching import OPTIONAL, Blueprint, Fit, closest_fit, complete_fits
from sslortho.models.weights.misfit import describe_misfit, some
from sslortho.models.weights.parametrized import WholeState, put_together
from sslortho.models.weights.recognition import (
    find_fits,
    recognise,
    with_dot,
)


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
    image_size: int | None = None
    """Its image size for `create_backbone`; None unless it is a vision transformer of torchvision."""
    any_size: bool = False
    """Whether it is a vision transformer that was pretrained on images of another size than its own."""
    report: LoadReport
    """Which tensors were loaded."""


def _hint(weights: WeightsFile, whole: WholeState, wanted: Blueprint, prefix: str | None) -> str:
    elsewhere = [
        repr(fit.prefix) for fit in complete_fits(wanted, whole.tensors, None, whole.aside)
    ]
    if elsewhere:  # then not under the prefix that was given
        return f"they fit under {' and '.join(elsewhere)}, if weights_prefix says so"
    if known := recognise(weights, prefix):
        names = " or ".join(f"backbone={name!r}, stem={stem!r}" for name, stem in known)
        return f"these weights fit {names}"
    beginnings = sorted({".".join(name.split(".")[:2]) for name in weights.state})
    return (
        "these weights fit none of ours or torchvision's; timm's are backbone='timm:NAME'. Their "
        f"names begin with {some(beginnings)}"
    )


def _misfit(weights: WeightsFile, whole: WholeState, wanted: Blueprint, prefix: str | None) -> str:
    best = closest_fit(wanted, whole.tensors, prefix, whole.aside)
    where = f" under {best.prefix!r}" if best.prefix else ""
    required = len(wanted.required)
    matched = sum(not name.endswith(OPTIONAL) for name in best.names)
    parts = [f"{matched} of the backbone's {required} tensors are in it{where}"]
    parts += [*describe_misfit(best, whole), _hint(weights, whole, wanted, prefix)]
    return f"backbone_from={str(weights.path)!r} does not fit the backbone: {'; '.join(parts)}"


def _describe_wrong_kind(value: Tensor, ours: Tensor, name: str) -> str | None:
    """Kind of a tensor that is no weight, in words; None for a weight."""
    if value.is_meta:
        return "on the meta device, without its numbers"
    if not value.is_quantized and value.layout != torch.strided:
        return f"in the layout {value.layout}"
    # float8 comes with scales of its own, by which its users multiply
    coarse = value.is_floating_point() and value.itemsize < 2
    other = value.is_floating_point() != ours.is_floating_point() and not name.endswith(OPTIONAL)
    return f"as {value.dtype}" if value.is_quantized or coarse or other else None


def _check_kinds(weights: WeightsFile, backbone: nn.Module, values: dict[str, Tensor]) -> None:
    """Raise ValueError for tensors that are no weights: quantised, integer, complex, sparse, meta."""
    ours = backbone.state_dict()
    for name, value in values.items():
        kind = _describe_wrong_kind(value, ours[name], name)
        if kind is not None:
            raise ValueError(
                f"backbone_from={str(weights.path)!r} has {name} {kind}, which is not the kind of "
                f"number of a weight ({ours[name].dtype}, dense); if it is quantised or sparse, give "
                "the file from before that"
            )


def _check_finite(weights: WeightsFile, values: dict[str, Tensor]) -> None:
    bad = [k for k, v in values.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if bad:
        raise ValueError(
            f"backbone_from={str(weights.path)!r} has weights that are not finite: {some(bad)}; "
            "its training has diverged, give an earlier checkpoint"
        )


def _unused(state: dict[str, Tensor], whole: WholeState, fit: Fit) -> dict[str, int]:
    """Count the tensors that were not loaded, by module."""
    used = set(fit.names.values())
    used.update(part for name in fit.names.values() for part in whole.parts.get(name, ()))
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


def _has_small_stem(network: nn.Module) -> bool:
    import torchvision  # slow to import

    return (
        isinstance(network, torchvision.models.ResNet)
        and network.conv1.kernel_size == (3, 3)
        and network.conv1.padding == (1, 1)
    )


def _describe_stem(network: nn.Module, weights: WeightsFile, fit: Fit) -> list[str]:
    """Note on a padding that is, or may be, another one than the network's."""
    if not _has_small_stem(network):
        return []
    if weights.small_stem == "solo_learn":
        return ["solo-learn wrote it, whose CIFAR networks pad by 2: stem 'solo_learn' is theirs"]
    likely = weights.lightning and not fit.numbered
    if likely and not weights.small_stem and fit.prefix.endswith(("backbone.", "encoder.")):
        return ["if solo-learn wrote it: its CIFAR networks pad by 2, which is stem 'solo_learn'"]
    return []


def _describe_parts(whole: WholeState, fit: Fit) -> list[str]:
    kinds = Counter(whole.kinds[name] for name in fit.names.values() if name in whole.kinds)
    return [f"{count} weights are computed from their {kind}" for kind, count in kinds.items()]


def load_backbone(
    backbone: nn.Module, weights: WeightsFile, prefix: str | None = None
) -> LoadReport:
    """Load the weights of a file into a backbone: all of its tensors, each with its own shape.

    The tensors are found by name under any prefix: "" (torchvision, timm), "backbone.", "encoder."
    (solo-learn), "module.backbone." (facebookresearch/barlowtwins), ... Children may be numbered, as in
    lightly's `nn.Sequential(*list(resnet.children())[:-1])`. Batch norm's `num_batches_tracked` may be
    missing. What wrappers add to names, at the beginning or inside, is left out: torch.compile
    (`_orig_mod`), activation checkpointing, DataParallel, FSDP. Weights in parts (weight norm, spectral
    norm, pruning) are computed as torch does in evaluation mode.

    If several networks fit, the one that its project evaluates is taken, and a note of the report
    says so: the teacher beside a student (DINO, iBOT), otherwise the network of which all others are
    moving averages by their names (momentum, target, ema, key). `prefix` chooses another.

    Args:
        backbone: result of `create_backbone`, or any network that names its tensors as the file does.
        weights: result of `read_weights`.
        prefix: the only prefix to look under; its final dot may be left out. None for all.

    Raises:
        ValueError: the weights are those of another network, a larger one or several, or not finite.
    """
    prefix, wanted, whole = with_dot(prefix), Blueprint.of(backbone), put_together(weights.state)
    fits = complete_fits(wanted, whole.tensors, prefix, whole.aside)
    if not fits:
        raise ValueError(_misfit(weights, whole, wanted, prefix))
    fit, notes = choose_fit(weights, whole.tensors, fits)
    values = {ours: whole.tensors[theirs] for ours, theirs in fit.names.items()}
    _check_kinds(weights, backbone, values)
    _check_finite(weights, values)
    state = backbone.state_dict()  # with the versions of its modules, which MNASNet needs
    state.update(values)
    backbone.load_state_dict(state)
    notes += [*_describe_parts(whole, fit), *_describe_stem(backbone, weights, fit)]
    return LoadReport(
        file=weights.path.name + (f" ({weights.inside})" if weights.inside else ""),
        prefix=fit.prefix,
        matched=len(fit.names),
        unused=_unused(weights.state, whole, fit),
        notes=tuple(notes),
    )


def _choose_image_size(
    weights: WeightsFile, name: str, stem: Stem, prefix: str | None
) -> int | None:
    """Side of a vision transformer's images. Raises ValueError if the file has several that fit."""
    if not name.startswith("vit_"):
        return None
    places = find_fits(weights, name, stem, with_dot(prefix))
    sizes = {size: fit.prefix for size, fit in places}
    if len(sizes) > 1:
        listed = ", ".join(f"{prefix!r} ({size} pixels)" for size, prefix in sizes.items())
        raise ValueError(
            f"backbone_from={str(weights.path)!r} holds a {name} for several sizes of images, under {listed}; "
            "say which by weights_prefix"
        )
    return next(iter(sizes), None)


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
    image_size = _choose_image_size(weights, name, chosen, prefix)
    network = create_backbone(name, chosen, image_size=image_size)
    size = required_size(network)
    any_size = bool(weights.info) and size not in (None, weights.info.crop_size)
    if any_size:
        network = create_backbone(name, chosen, image_size=image_size, any_size=True)
    report = load_backbone(network, weights, prefix)
    if name in MIXED_INPUT:
        note = f"torchvision's published {name} needs transform_input=True; it is False here"
        report = replace(report, notes=(*report.notes, note))
    info = weights.info and replace(weights.info, backbone=name, stem=chosen)
    note_pretraining(network, info)
    return RestoredBackbone(
        network=network.eval(),
        name=name,
        stem=chosen,
        image_size=image_size,
        any_size=any_size,
        info=info,
        report=report,
    )
