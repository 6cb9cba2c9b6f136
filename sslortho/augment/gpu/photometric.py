"""Colour and blur of a whole batch as one graph of fixed shapes, for torch.compile on a GPU.

`reference.photometric.render_photometric` picks by index the samples that an operation applies to,
one operation after another: dozens of GPU kernels, with other shapes in every batch. Here every
sample takes the same path, and an operation that is off for it is exactly the identity. torch.compile
makes one fused kernel of it, or three with a blur, besides tiny ones for the parameters (and three
more where a batch is too small to fill the GPU with one image a block). Nothing waits for the host.

Images are three separate planes until the end: all operations but the blur need the three values of
a pixel together, so one thread holds them in registers.

Estimate for one H100 (3.35 TB/s; 132 * 128 lanes at 1.7 GHz issue 2.9e13 instructions a second) and
512 x 3 x 224 x 224, which is 77 MB as uint8, 0.31 GB as float32. Instructions are counted in the
code that torch 2.14 and Triton generate for sm_90.

- All but the blur, one kernel. It reads uint8, writes and reads the planes before and after the
  contrast's mean, writes the result: 1.0 GB, 0.3 ms. 480 instructions a pixel: 0.4 ms.
- Blur of 23 taps, a kernel for each direction, the planes 11 pixels larger on each side: 1.4 GB,
  0.4 ms; 90 instructions a value: 0.5 ms. Products with banded (224, 224) matrices would be 17e9
  multiply-adds a direction, 1.2 ms for both at peak speed, and would depend on the process's
  TensorFloat-32 settings, as a convolution would.
- A view that blurs one sample in ten could save most of the blur's millisecond by gathering those
  samples. But their number changes with the batch, and a fixed capacity would be exceeded now and
  then. A training step of a ResNet-50 on these 512 pairs takes some 400 ms.
"""

import torch
from torch import Tensor
from torch.nn import functional

from sslortho.augment.draws.photometric import (
    BLUR_COLUMN,
    BRIGHTNESS,
    CONTRAST,
    FACTOR_COLUMN,
    GRAYSCALE_COLUMN,
    HUE,
    JITTER_COLUMN,
    ORDER_COLUMN,
    PARAMETERS,
    SATURATION,
    SIGMA_COLUMN,
    SOLARISE_COLUMN,
)
from sslortho.augment.views import LUMA, ViewSpec

Planes = tuple[Tensor, Tensor, Tensor]
"""Red, green and blue, each (batch, h, w), values from 0 to 1."""


def _column(parameters: Tensor, column: int) -> Tensor:
    """One column of the table, (batch, 1, 1)."""
    return parameters[:, column].view(-1, 1, 1)


def _luma(planes: Planes) -> Tensor:
    r, g, b = planes
    return LUMA[0] * r + LUMA[1] * g + LUMA[2] * b


def _blend(planes: Planes, factor: Tensor, other: Tensor) -> Planes:
    r, g, b = ((factor * plane + other).clamp(0, 1) for plane in planes)
    return r, g, b


def turn_hue(planes: Planes, shift: Tensor) -> Planes:
    """Turn the hue, as `reference.photometric.adjust_hue`, with one division and no remainder.

    Args:
        planes: three of (batch, h, w).
        shift: turns of the colour circle, from -1/2 to 1/2, (batch, 1, 1).
    """
    r, g, b = planes
    value = torch.maximum(torch.maximum(r, g), b)
    chroma = value - torch.minimum(torch.minimum(r, g), b)
    sector = torch.where(value == g, b - r + 2 * chroma, r - g + 4 * chroma)
    sector = torch.where(value == r, g - b, sector)
    # from -1 to 5, and with the shift from -4 to 8: at most one turn brings it into 0 to 6
    hue = sector / torch.where(chroma > 0, chroma, 1) + 6 * shift
    hue = torch.where(hue < 0, hue + 6, hue)
    hue = torch.where(hue >= 6, hue - 6, hue)
    return (
        value - chroma * (2 - (hue - 3).abs()).clamp(0, 1),
        value - chroma * ((hue - 2).abs() - 1).clamp(0, 1),
        value - chroma * ((hue - 4).abs() - 1).clamp(0, 1),
    )


def _in_memory(planes: Planes) -> Planes:
    """Return the same planes as parts of one tensor, which a compiled graph computes only once.

    Otherwise, where neighbours are read next, the compiler may compute a value again for each tap.
    """
    r, g, b = torch.stack(planes, dim=1).unbind(1)
    return r, g, b


def _jitter_steps(parameters: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return each sample's operations in the three places before the contrast and the three after it.

    Returns:
        six triples of factor, share and turn, (batch, 1, 1) each. A step maps values x to
        clamp(factor * x + share * luma), or turns the hue where turn is 1. Places that a sample does
        not use, and all places where the jitter is off, have factor 1 and share 0: the identity.
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
    # one table in memory, or every pixel would compute it again
    table = torch.cat([*factors, *shares, *turns], dim=1)
    columns = [_column(table, i) for i in range(18)]
    return list(zip(columns[:6], columns[6:12], columns[12:], strict=True))


def _mean_luma(planes: Planes, edge: int) -> Tensor:
    """Mean luma of each image without the `edge` reflected pixels around it, (batch, 1, 1).

    It is a sum under a mask, which the kernel that makes the planes can compute along the way.
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
    """Apply the four operations in each sample's order.

    Only the contrast needs more than one pixel, and it comes once. So three steps before its mean and
    three after it hold the other operations in any order, and one reduction is enough.
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
    """Middle and one half of each sample's Gaussian kernel, (batch, edge + 1).

    Samples without blur have 1, 0, 0, ...
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
    """Convolve with symmetric kernels along one dimension; it becomes shorter by their length - 1.

    It is a sum of shifted slices: one fused kernel, which finds neighbours in the cache.
    """
    edge = weights.shape[1] - 1
    size = plane.shape[dim] - 2 * edge
    total = _column(weights, 0) * plane.narrow(dim, edge, size)
    for i in range(1, edge + 1):
        pair = plane.narrow(dim, edge - i, size) + plane.narrow(dim, edge + i, size)
        total = total + _column(weights, i) * pair
    return total


def _blur(planes: Planes, parameters: Tensor, edge: int) -> Planes:
    """Blur planes with `edge` reflected pixels around them, (batch, h + 2 edge, w + 2 edge)."""
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
    """Jitter, grayscale, blur, solarise and normalise a batch, as the reference.

    Args:
        images: (batch, 3, h, w) in any memory format, uint8, or floating with values 0 to 255.
        parameters: the table of `pack_photometric`, float32 (batch, PARAMETERS), on the images'
            device.
        spec: an operation whose probability or strength is 0 is left out of the graph.
        channels_last: memory format of the result.

    Returns:
        float32 (batch, 3, h, w).
    """
    if parameters.shape != (len(images), PARAMETERS):
        raise ValueError(
            f"parameters of shape {tuple(parameters.shape)} must be ({len(images)}, {PARAMETERS}): "
            "a row of pack_photometric for each image"
        )
    # Operations before the blur are done for the reflected edge too, so that the blur's taps are
    # plain slices: reflecting the index of each tap would cost more than these pixels.
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
