"""Architecture of a file's weights: as given, as the file says, or recognised; never guessed."""

from typing import cast

from sslortho.models.backbones import STEMMED, Stem
from sslortho.models.weights.file import WeightsFile
from sslortho.models.weights.misfit import describe_misfit
from sslortho.models.weights.parametrized import put_together
from sslortho.models.weights.recognition import closest_network, find_fits, recognise, with_dot
from sslortho.options import GIVEN


def _describe_recognised(
    weights: WeightsFile, found: list[tuple[str, Stem]], prefix: str | None
) -> str:
    """Result of a recognition that found no network or several, in the words of an error."""
    if found:
        return f"several networks: {found}"
    what = "no network of ours or torchvision's"
    if closest := closest_network(weights, prefix):
        name, _, fit = closest
        differs = "; ".join(describe_misfit(fit, put_together(weights.state)))
        what += f" (the nearest is {name}; {differs})"
    return what


def _choose_stem(weights: WeightsFile, name: str, recognised: Stem) -> Stem:
    """Stem of a file that is not ours. Raises ValueError where the tensors do not tell it."""
    if recognised != "small" or name.startswith("densenet"):
        return recognised
    if weights.small_stem is not None:
        return cast(Stem, weights.small_stem)
    raise ValueError(
        f"backbone_from={str(weights.path)!r} has a 3x3 first convolution (of {name}), and does not say its "
        "padding, which changes the features; give stem: stem='small' pads by 1 (lightly, SimCLR, most "
        "others), stem='solo_learn' pads by 2 (solo-learn's CIFAR networks)"
    )


def _both_stems(weights: WeightsFile, name: str) -> ValueError:
    return ValueError(
        f"backbone_from={str(weights.path)!r} holds {name} with a 7x7 first convolution and with a 3x3 "
        "one; say which by weights_prefix or stem"
    )


def choose_architecture(
    weights: WeightsFile,
    backbone: str | None = None,
    stem: Stem | None = None,
    prefix: str | None = None,
) -> tuple[str, Stem]:
    """Name and stem of the network that the weights are of: as given, as the file says, or recognised.

    Raises:
        ValueError: the weights fit no known network, or several; the file does not tell the stem; the
            network does not have the stem.
    """
    if backbone is not None and backbone not in STEMMED:
        return backbone, _check_stock(backbone, stem)
    if backbone is None and weights.info and weights.info.backbone == GIVEN:
        raise ValueError(
            f"backbone_from={str(weights.path)!r} has the weights of a module that was handed over in "
            "Python, and its code is not in the file: sslortho.load_backbone(..., model=MODULE) takes a "
            "module of the same architecture; a network that has a name is given by it (backbone)"
        )
    if weights.info and backbone in (None, weights.info.backbone):
        name = weights.info.backbone
        if name not in STEMMED:
            return name, _check_stock(name, stem)
        return name, stem or cast(Stem, weights.info.stem)
    if backbone is not None:
        if stem is not None:
            return backbone, stem
        stems: tuple[Stem, ...] = ("stock", "small")
        found: list[Stem] = [s for s in stems if find_fits(weights, backbone, s, with_dot(prefix))]
        if len(found) > 1:
            raise _both_stems(weights, backbone)
        return backbone, _choose_stem(weights, backbone, found[0]) if found else "stock"
    recognised = recognise(weights, prefix)
    if len(recognised) > 1 and stem is not None:
        of_stem = "stock" if stem == "stock" else "small"  # solo-learn's has the tensors of "small"
        recognised = [pair for pair in recognised if pair[1] == of_stem]
    names = {name for name, _ in recognised}
    if len(names) == 1 and len(recognised) > 1:
        raise _both_stems(weights, *names)
    if len(recognised) != 1:
        what = _describe_recognised(weights, recognised, prefix)
        under = "" if prefix is None else f" under weights_prefix={prefix!r}"
        raise ValueError(
            f"backbone_from={str(weights.path)!r} is recognised as {what}{under}; give backbone, the "
            "name of a network, such as resnet50 or timm:NAME"
        )
    [(name, found_stem)] = recognised
    if name not in STEMMED:
        return name, _check_stock(name, stem)
    return name, stem or _choose_stem(weights, name, found_stem)


def _check_stock(name: str, stem: Stem | None) -> Stem:
    if stem not in (None, "stock"):
        raise ValueError(
            f"stem={stem!r} has no effect on backbone={name!r}; it is for {', '.join(STEMMED)}"
        )
    return "stock"
