"""Colour and blur of a whole batch as one graph of fixed shapes: what a GPU runs, compiled.

`photometric.render_photometric` picks the samples that an operation touches by index, one operation
after another: dozens of kernels, with other shapes in every batch. Here every sample takes the same
way and an operation that is off for it is the identity, exactly. So torch.compile makes one fused
kernel of it, three with a blur, besides tiny ones for the parameters (and three more where a batch
is too small to fill the GPU with one image a block); nothing waits for the host.

The images are three planes until the end: all of these operations but the blur need the three
values of a pixel together, and so one thread holds them in registers.

Estimate for one H100 (3.35 TB/s; 132 * 128 lanes at 1.7 GHz issue 2.9e13 instructions a second) and
512 x 3 x 224 x 224, which is 77 MB as uint8, 0.31 GB as float32. Instructions are counted in what
torch 2.14 and Triton make of it for sm_90.

- All but the blur, one kernel. Reads uint8, writes and reads the planes on both sides of the
  contrast's mean, writes the result: 1.0 GB, 0.3 ms. 480 instructions a pixel: 0.4 ms.
- Blur of 23 taps, a kernel for each direction, the planes 11 pixels larger on each side: 1.4 GB,
  0.4 ms; 90 instructions a value: 0.5 ms. As products with banded (224, 224) matrices it would be
  17e9 multiply-adds a direction, 1.2 ms for both at the very peak, and, as a convolution would be,
  subject to the process's TensorFloat-32 settings.
- A view that blurs one sample in ten could save most of the blur's millisecond, by gathering those
  samples; but their number changes with the batch, and a fixed capacity would be exceeded now and
  then. A training step of a ResNet-50 on these 512 pairs takes some 400 ms.
"""

import itertools
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from sslortho.augment.reference.photometric import (
    BLUR_COLUMN,
    BRIGHTNESS,
    CONTRAST,
    FACTOR_COLUMN,
    GRAYSCALE_COLUMN,
    HUE,
    JITTER_COLUMN,
    LUMA,
    ORDER_COLUMN,
    PARAMETERS,
    SATURATION,
    SIGMA_COLUMN,
    SOLARISE_COLUMN,
)
from sslortho.augment.views import ViewSpec

Planes = tuple[Tensor, Tensor, Tensor]
"""Red, green and blue, each (batch, h, w), values from 0 to 1."""

CompiledRenderer = Callable[[Tensor, Tensor], Tensor]
"""(images, parameters) -> views."""


def _column(parameters: Tensor, column: int) -> Tensor:
    """(batch, 1, 1)"""
    return parameters[:, column].view(-1, 1, 1)


def _luma(planes: Planes) -> Tensor:
    r, g, b = planes
    return LUMA[0] * r + LUMA[1] * g + LUMA[2] * b


def _blend(planes: Planes, factor: Tensor, other: Tensor) -> Planes:
    r, g, b = ((factor * plane + other).clamp(0, 1) for plane in planes)
    return r, g, b


def turn_hue(planes: Planes, shift: Tensor) -> Planes:
    """`photometric.adjust_hue` of planes, with one division and no remainder.

    Args:
        planes: three of (batch, h, w).
        shift: turns of the colour circle, from -1/2 to 1/2, (batch, 1, 1).
    """
    r, g, b = planes
    value = torch.maximum(torch.maximum(r, g), b)
    chroma = value - torch.minimum(torch.minimum(r, g), b)
    sector = torch.where(value == g, b - r + 2 * chroma, r - g + 4 * chroma)
    sector = torch.where(value == r, g - b, sector)
    # from -1 to 5, and with the shift from -4 to 8: one turn at most brings it to 0 to 6
    hue = sector / torch.where(chroma > 0, chroma, 1) + 6 * shift
    hue = torch.where(hue < 0, hue + 6, hue)
    hue = torch.where(hue >= 6, hue - 6, hue)
    return (
        value - chroma * (2 - (hue - 3).abs()).clamp(0, 1),
        value - chroma * ((hue - 2).abs() - 1).clamp(0, 1),
        value - chroma * ((hue - 4).abs() - 1).clamp(0, 1),
    )


def _in_memory(planes: Planes) -> Planes:
    """The same planes, of one tensor that a compiled graph computes only once.

    Where neighbours are read next, the compiler might instead compute a value again for each tap.
    """
    r, g, b = torch.stack(planes, dim=1).unbind(1)
    return r, g, b


def _jitter_steps(parameters: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What each sample does in the three places before the contrast and the three after it.

    Returns:
        six of factor, share and turn, (batch, 1, 1) each: a step makes clamp(factor * x + share *
        luma) of the values; where turn is 1, it turns the hue instead. Where the contrast comes
        earlier (or later), and where the jitter is off, factor 1 and share 0: the identity.
    """
    order = parameters[:, ORDER_COLUMN : ORDER_COLUMN + 4]
    places = torch.arange(4, device=parameters.device)
    contrast = (places * (order == CONTRAST)).sum(dim=1, keepdim=True)
    jitter = parameters[:, JITTER_COLUMN, None] > 0
    brightness = parameters[:, FACTOR_COLUMN + BRIGHTNESS, None]
    saturation = parameters[:, FACTOR_COLUMN + SATURATION, None]
    factors, shares, turns = [], [], []
    for active, code in [
        (jitter & (places[:3] < contrast), order[:, :3]),
        (jitter & (places[1:] > contrast), order[:, 1:]),
    ]:
        saturates = active & (code == SATURATION)
        factor = torch.where(active & (code == BRIGHTNESS), brightness, 1)
        factors.append(torch.where(saturates, saturation, factor))
        shares.append(torch.where(saturates, 1 - saturation, 0))
        turns.append((active & (code == HUE)).to(factor.dtype))
    # one table in memory, or each pixel would work it out again
    table = torch.cat([*factors, *shares, *turns], dim=1)
    columns = [_column(table, i) for i in range(18)]
    return list(zip(columns[:6], columns[6:12], columns[12:], strict=True))


def _mean_luma(planes: Planes, edge: int) -> Tensor:
    """Of the image without the `edge` reflected pixels around it; (batch, 1, 1).

    A sum under a mask, as the kernel that makes the planes can then take it along.
    """
    luma = _luma(planes)
    height, width = luma.shape[1] - 2 * edge, luma.shape[2] - 2 * edge
    if edge:
        y = torch.arange(luma.shape[1], device=luma.device).view(-1, 1)
        x = torch.arange(luma.shape[2], device=luma.device)
        inside = (y >= edge) & (y < edge + height) & (x >= edge) & (x < edge + width)
        luma = torch.where(inside, luma, 0)
    return luma.sum(dim=(1, 2), keepdim=True) / (height * width)


def _jitter(planes: Planes, parameters: Tensor, spec: ViewSpec, edge: int) -> Planes:
    """The four operations in each sample's order.

    The contrast alone looks at more than a pixel, and comes once: whatever the order, three steps
    before its mean and three after it hold the other operations, and one reduction is enough.
    """
    steps = _jitter_steps(parameters)
    shift = _column(parameters, FACTOR_COLUMN + HUE)

    def step(planes: Planes, factor: Tensor, share: Tensor, turn: Tensor) -> Planes:
        r, g, b = _blend(planes, factor, share * _luma(planes))
        if spec.hue > 0:
            turned = turn_hue(planes, shift)
            r, g, b = (torch.where(turn > 0, *pair) for pair in zip(turned, (r, g, b), strict=True))
        return r, g, b

    for factor, share, turn in steps[:3]:
        planes = step(planes, factor, share, turn)
    if spec.contrast > 0:
        contrast = _column(parameters, FACTOR_COLUMN + CONTRAST)
        contrast = torch.where(_column(parameters, JITTER_COLUMN) > 0, contrast, 1)
        planes = _blend(planes, contrast, (1 - contrast) * _mean_luma(planes, edge))
    for factor, share, turn in steps[3:]:
        planes = step(planes, factor, share, turn)
    return planes


def _blur_weights(parameters: Tensor, edge: int) -> Tensor:
    """The middle of each sample's Gaussian kernel and one of its halves, (batch, edge + 1).

    1, 0, 0, ... where the blur is off.
    """
    on = parameters[:, BLUR_COLUMN] > 0
    sigma = torch.where(on, parameters[:, SIGMA_COLUMN], 1)
    half = [torch.exp(-0.5 * (i / sigma).square()) for i in range(edge + 1)]
    total = half[0]
    for weight in half[1:]:
        total = total + 2 * weight
    identity = [1.0] + edge * [0.0]
    return torch.stack(
        [torch.where(on, w / total, off) for w, off in zip(half, identity, strict=True)], dim=1
    )


def _blur_along(plane: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Symmetric kernels along one dimension, which becomes shorter by the kernel's length - 1.

    A sum of shifted slices: fused, one kernel that takes its neighbours from the cache.
    """
    edge = weights.shape[1] - 1
    size = plane.shape[dim] - 2 * edge
    total = _column(weights, 0) * plane.narrow(dim, edge, size)
    for i in range(1, edge + 1):
        pair = plane.narrow(dim, edge - i, size) + plane.narrow(dim, edge + i, size)
        total = total + _column(weights, i) * pair
    return total


def _blur(planes: Planes, parameters: Tensor, edge: int) -> Planes:
    """Planes with `edge` reflected pixels around them, (batch, h + 2 edge, w + 2 edge), blurred."""
    weights = _blur_weights(parameters, edge)
    for dim in (2, 1):
        r, g, b = (_blur_along(plane, weights, dim) for plane in _in_memory(planes))
        planes = r, g, b
    return planes


def _finish(planes: Planes, parameters: Tensor, spec: ViewSpec) -> list[Tensor]:
    """Solarise and normalise."""
    if spec.solarise_p > 0:
        on, threshold = _column(parameters, SOLARISE_COLUMN) > 0, spec.solarise_threshold
        r, g, b = (torch.where(on & (plane >= threshold), 1 - plane, plane) for plane in planes)
        planes = r, g, b
    return [(p - mean) / std for p, mean, std in zip(planes, spec.mean, spec.std, strict=True)]


def render_photometric_batched(
    images: Tensor, parameters: Tensor, spec: ViewSpec, *, channels_last: bool = False
) -> Tensor:
    """Jitter, grayscale, blur, solarise and normalise a batch: `photometric.render_photometric`.

    Args:
        images: (batch, 3, h, w) in any memory format, uint8, or floating with values 0 to 255.
        parameters: the table of `photometric.pack_photometric`, float32 (batch, PARAMETERS), on
            the images' device.
        spec: what it never does (a probability or a strength of 0) is left out of the graph.
        channels_last: memory format of the result.

    Returns:
        float32 (batch, 3, h, w).
    """
    if parameters.shape != (len(images), PARAMETERS):
        raise ValueError(
            f"parameters of shape {tuple(parameters.shape)} must be ({len(images)}, {PARAMETERS}): "
            "a row of pack_photometric for each image"
        )
    # What comes before the blur is done for the reflected edge too, so that the blur's taps are
    # plain slices: to reflect the index of each tap costs more than these pixels.
    edge = spec.blur_taps // 2 if spec.blur_p > 0 else 0
    x = images.float() / 255
    if edge:
        x = functional.pad(x, (edge, edge, edge, edge), mode="reflect")
    r, g, b = x.unbind(1)
    if spec.jitter_p > 0:
        r, g, b = _jitter((r, g, b), parameters, spec, edge)
    if spec.grayscale_p > 0:
        on, luma = _column(parameters, GRAYSCALE_COLUMN) > 0, _luma((r, g, b))
        r, g, b = (torch.where(on, luma, plane) for plane in (r, g, b))
    if edge:
        r, g, b = _blur((r, g, b), parameters, edge)
    finished = _finish((r, g, b), parameters, spec)
    if channels_last:
        return torch.stack(finished, dim=-1).permute(0, 3, 1, 2)
    return torch.stack(finished, dim=1)


_numbers = itertools.count()


@cache
def compiled_renderer(
    spec: ViewSpec, channels_last: bool = False, backend: str = "inductor"
) -> CompiledRenderer:
    """`render_photometric_batched` of one specification, compiled once for each shape of images.

    The first call with a shape takes up to a minute, less once torch's cache on disk knows it. A
    process can have torch._dynamo.config.recompile_limit (8) shapes of a specification.

    The mode is torch.compile's default: "reduce-overhead" hands out views that the next call
    overwrites, and "max-autotune" tunes matrix products, of which there are none.
    """

    def render(images: Tensor, parameters: Tensor) -> Tensor:
        return render_photometric_batched(images, parameters, spec, channels_last=channels_last)

    # torch counts the shapes by code object, which all specifications would share
    render.__code__ = render.__code__.replace(co_name=f"render_{next(_numbers)}")
    options: dict[str, str | int | bool | Callable] = {}
    if backend == "inductor":
        from torch._inductor import list_options  # half a second, on a GPU alone

        # Kernels write their planes into a stack's memory; by default another one copies them
        # there, or each reader computes them again. Names that this torch lacks are left out.
        known = list_options()
        names = ("max_pointwise_cat_inputs", "max_complex_pointwise_cat_inputs")
        options = {name: 0 for name in names if name in known}
    compiled = torch.compile(
        render, fullgraph=True, dynamic=False, backend=backend, options=options or None
    )

    @torch.no_grad()
    def call(images: Tensor, parameters: Tensor) -> Tensor:
        return compiled(images, parameters)

    return call
