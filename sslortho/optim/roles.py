"""Roles of parameters: table, scale, convolution, attention, dense or other, by the layers that use them."""

from typing import Literal, NamedTuple, get_args

from torch import Size, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from sslortho.optim.components import View
from sslortho.optim.layers import (
    Convolution,
    HeadsByTensor,
    find_convolution,
    is_norm,
    is_reordered_convolution,
    is_table,
    is_vector,
    own_shape,
)
from sslortho.optim.uses import Use

RoleKind = Literal[
    "table",
    "exempt",
    "convolution",
    "attention",
    "dense",
    "reordered convolution",
    "scale",
    "other",
]
RANKS: tuple[RoleKind, ...] = get_args(RoleKind)
"""A parameter with several uses has the role that comes first, in whatever order they are registered."""


class Role(NamedTuple):
    """Part that a parameter plays in a layer that uses it."""

    kind: RoleKind
    use: Use
    words: str
    components: int = 1
    view: View = "rows"
    """Number and view of its matrices; those of attention apply where heads are split."""

    @property
    def rank(self) -> tuple[int, bool, int]:
        """Sort key: the role that decides comes first; among convolutions that with more groups."""
        return RANKS.index(self.kind), self.view == "transposed", -self.components


def choose_role(uses: list[Use], shape: Size, heads: HeadsByTensor) -> Role:
    """The role that decides over a parameter: the first of RANKS among those of its uses.

    An embedding comes before all others, because a table that a head shares is still looked up. A
    convolution comes before the transposed one that shares its weight, and what layers of known types
    say before what a shape alone says.
    """
    return min((find_role(use, shape, heads) for use in uses), key=lambda role: role.rank)


def find_role(use: Use, shape: Size, heads: HeadsByTensor) -> Role:
    """The role of a parameter of this shape in one of its uses."""
    layer, tensor, direct = use.layer, use.tensor, use.part == "tensor"
    if is_norm(layer, shape):
        return Role("exempt", use, "norm")
    if use.part == "magnitude":
        return Role("exempt", use, "magnitude")
    if len(shape) <= 1:
        return Role("exempt", use, "bias, scale or other vector")
    convolution = find_convolution(layer, tensor, shape, direct)
    if convolution is not None:
        words = _name_convolution(convolution)
        return Role("convolution", use, words, convolution.groups, convolution.view)
    own = own_shape(layer, tensor)
    is_own = own is not None and (shape == own or (direct and tensor == "weight"))
    if not is_own and _is_scale(use, shape, own):
        return Role("scale", use, "a vector in the shape of a scale")
    if is_table(layer, tensor if use.part != "piece" else "", shape):
        return Role("table", use, "embedding")
    if is_reordered_convolution(layer, shape):
        return Role("reordered convolution", use, "convolution weight in an unknown order")
    split = heads.get((id(layer), tensor))
    if split is not None and shape == own:
        return Role("attention", use, split.label, split.components, split.view)
    if is_own and isinstance(layer, nn.Linear):
        return Role("dense", use, "dense")
    return Role("other", use, "other weight")


def _is_scale(use: Use, shape: Size, own: Size | None) -> bool:
    """Whether a tensor that is not the layer's weight only scales it, or scales images.

    Args:
        use: of the parameter.
        shape: of the parameter, of two or more dimensions.
        own: shape of the layer's weight, where it is known.
    """
    # torchvision's ConvNeXt holds its layer scale as (channels, 1, 1), to multiply images by it;
    # timm's ScaledStdConv2d holds the gain of its filters as (channels, 1, 1, 1)
    if len(shape) > 2 and Size(shape[1:]).numel() == 1:
        return True
    # NAFNet's scales of images are (1, channels, 1, 1), as peft's magnitudes of convolutions (DoRA,
    # IA3); a token or a position has its numbers in the last dimension
    images = len(shape) > 2 and is_vector(shape) and shape[0] == shape[-1] == 1
    if images and not hasattr(use.layer, "kernel_size"):
        return True
    if own is None:
        return use.part == "piece" and is_vector(shape)
    if len(shape) != len(own) or not is_vector(shape):
        return False
    return all(size in (1, full) for size, full in zip(shape, own, strict=True))


def _name_convolution(convolution: Convolution) -> str:
    name = "transposed convolution" if convolution.transposed else "convolution"
    if convolution.groups == 1:
        return name
    depthwise = convolution.groups == convolution.inputs
    return f"{'depthwise' if depthwise else 'grouped'} {name}"


def describe_origin(use: Use) -> str:
    """The parametrisation and the layer, in words; empty where the layer holds the parameter itself."""
    if not use.makers:
        return ""
    weight = f"the {use.tensor} of {type_before_parametrizations(use.layer).__name__}"
    makers = " and ".join(use.makers)
    if use.part in ("tensor", "original"):
        return f"{weight} before {makers}"
    return f"{makers} {'makes' if len(use.makers) == 1 else 'make'} {weight} from it"
