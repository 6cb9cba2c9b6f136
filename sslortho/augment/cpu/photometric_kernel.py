"""Colour and blur on a CPU: `reference.photometric.render_photometric` for one image, in place.

Compiled by numba, without the GIL. Planes are flat float32 arrays: the red plane, the green, the blue.
Each operation is one pass over planes that stay in the second-level cache. LLVM vectorises the loops,
except those of the mean and of the blur, which are written with vectors.
"""

import numpy as np
from numpy.typing import NDArray

from sslortho.augment.cpu.simd import LANES, add, load, multiply_add, splat, store, zeros
from sslortho.augment.draws.photometric import (
    BLUR_COLUMN,
    BRIGHTNESS,
    CONTRAST,
    FACTOR_COLUMN,
    GRAYSCALE_COLUMN,
    HUE,
    JITTER_COLUMN,
    ORDER_COLUMN,
    SATURATION,
    SIGMA_COLUMN,
    SOLARISE_COLUMN,
)
from sslortho.augment.numba_kernel import kernel
from sslortho.augment.views import LUMA

ZERO, ONE = np.float32(0), np.float32(1)
LUMA_R, LUMA_G, LUMA_B = (np.float32(weight) for weight in LUMA)

BLOCK = 2 * LANES
"""Values that the blur computes at a time."""
STRETCH = 64 * LANES
"""Values that the mean sums in float32 before it goes on in float64."""

NEGLIGIBLE = 6.5
"""Standard deviations beyond which a Gaussian is below 1e-9 of its peak: negligible in float32."""


@kernel
def _clamp(value):
    return min(max(value, ZERO), ONE)


@kernel
def _brightness(planes, area, factor):
    for i in range(3 * area):
        planes[i] = _clamp(planes[i] * factor)


@kernel
def _mean(plane):
    """Mean of a plane: at most STRETCH values are summed in float32, these sums in float64."""
    total, last = 0.0, len(plane) // LANES * LANES
    sums = np.empty(LANES, np.float32)
    for start in range(0, last, STRETCH):
        some = zeros()
        for i in range(start, min(start + STRETCH, last), LANES):
            some = add(some, load(plane, i))
        store(sums, 0, some)
        for k in range(LANES):
            total += sums[k]
    for i in range(last, len(plane)):
        total += plane[i]
    return total / len(plane)


@kernel
def _mean_luma(planes, area):
    red, green, blue = planes[:area], planes[area : 2 * area], planes[2 * area : 3 * area]
    return np.float32(LUMA[0] * _mean(red) + LUMA[1] * _mean(green) + LUMA[2] * _mean(blue))


@kernel
def _contrast(planes, area, factor):
    other = (ONE - factor) * _mean_luma(planes, area)
    for i in range(3 * area):
        planes[i] = _clamp(factor * planes[i] + other)


@kernel
def _saturation(planes, area, factor):
    red, green, blue = planes[:area], planes[area : 2 * area], planes[2 * area : 3 * area]
    rest = ONE - factor
    for i in range(area):
        r, g, b = red[i], green[i], blue[i]
        other = rest * (LUMA_R * r + LUMA_G * g + LUMA_B * b)
        red[i] = _clamp(factor * r + other)
        green[i] = _clamp(factor * g + other)
        blue[i] = _clamp(factor * b + other)


@kernel
def _grayscale(planes, area):
    red, green, blue = planes[:area], planes[area : 2 * area], planes[2 * area : 3 * area]
    for i in range(area):
        luma = LUMA_R * red[i] + LUMA_G * green[i] + LUMA_B * blue[i]
        red[i] = luma
        green[i] = luma
        blue[i] = luma


@kernel
def _channel(value, chroma, hue, offset):
    six = np.float32(6)
    k = hue + offset
    k -= six * np.floor(k * np.float32(1 / 6))
    return value - chroma * _clamp(min(k, np.float32(4) - k))


@kernel
def _hue(planes, area, shift):
    # reference.photometric.adjust_hue; both sides of a choice are computed, so that LLVM vectorises
    red, green, blue = planes[:area], planes[area : 2 * area], planes[2 * area : 3 * area]
    turn = np.float32(6) * shift
    for i in range(area):
        r, g, b = red[i], green[i], blue[i]
        value = max(r, max(g, b))
        chroma = value - min(r, min(g, b))
        sector = b - r if g == value else r - g
        place = np.float32(2) if g == value else np.float32(4)
        sector = g - b if r == value else sector
        place = ZERO if r == value else place
        hue = sector / (chroma if chroma > ZERO else ONE) + place + turn
        red[i] = _channel(value, chroma, hue, np.float32(5))
        green[i] = _channel(value, chroma, hue, np.float32(3))
        blue[i] = _channel(value, chroma, hue, ONE)


@kernel
def _solarise(planes, area, threshold):
    for i in range(3 * area):
        planes[i] = ONE - planes[i] if planes[i] >= threshold else planes[i]


@kernel
def _gaussian(sigma: float, taps: int) -> NDArray[np.float32]:
    """Weights of the pixels 0, 1, 2, ... away from the middle; negligible ones are left out."""
    half = taps // 2
    exact = np.exp(-0.5 * (np.arange(half + 1) / sigma) ** 2)
    exact /= exact[0] + 2 * exact[1:].sum()
    kept = min(half, int(np.ceil(NEGLIGIBLE * sigma)))
    return exact[: kept + 1].astype(np.float32)


@kernel
def _reflect(i: int, size: int) -> int:
    i = abs(i)
    return i if i < size else 2 * size - 2 - i


@kernel
def _convolve(source, at, step, weights, target, to, width):
    """Set target[to + i] to the sum over k of weights[|k|] * source[at + i + k * step], i below width.

    Whole blocks are read and written: source and target need room for BLOCK more elements.
    """
    for i in range(0, width, BLOCK):
        weight = splat(weights[0])
        first = multiply_add(load(source, at + i), weight, zeros())
        second = multiply_add(load(source, at + i + LANES), weight, zeros())
        for k in range(1, len(weights)):
            weight = splat(weights[k])
            before, after = at + i - k * step, at + i + k * step
            first = multiply_add(add(load(source, before), load(source, after)), weight, first)
            both = add(load(source, before + LANES), load(source, after + LANES))
            second = multiply_add(both, weight, second)
        store(target, to + i, first)
        store(target, to + i + LANES, second)


@kernel
def _copy(source, target):
    # numba makes a call and a scalar loop of an assignment to a slice
    for i in range(len(target)):
        target[i] = source[i]


@kernel
def _blur(planes, height, width, sigma, taps):
    """Blur with a separable Gaussian; edges are reflected, those of the intermediate rows too."""
    weights = _gaussian(sigma, taps)
    half = len(weights) - 1
    pitch = (width + BLOCK - 1) // BLOCK * BLOCK
    line = np.empty(pitch + 2 * half, np.float32)
    rows = np.empty((height + 2 * half) * pitch, np.float32)
    out = np.empty(pitch, np.float32)
    for channel in range(3):
        plane = planes[channel * height * width : (channel + 1) * height * width]
        for y in range(height):
            _copy(plane[y * width :], line[half : half + width])
            for k in range(1, half + 1):
                line[half - k] = line[half + _reflect(-k, width)]
                line[half + width - 1 + k] = line[half + _reflect(width - 1 + k, width)]
            _convolve(line, half, 1, weights, rows, (half + y) * pitch, width)
        for k in range(1, half + 1):
            for y in (-k, height - 1 + k):
                to, at = (half + y) * pitch, (half + _reflect(y, height)) * pitch
                _copy(rows[at:], rows[to : to + pitch])
        for y in range(height):
            _convolve(rows, (half + y) * pitch, pitch, weights, out, 0, width)
            _copy(out, plane[y * width : (y + 1) * width])


@kernel
def adjust_planes(
    planes: NDArray[np.float32],
    height: int,
    width: int,
    parameters: NDArray[np.float32],
    taps: int,
    threshold: float,
) -> None:
    """Jitter, grayscale, blur and solarise an image in place.

    Args:
        planes: flat, 3 * height * width values from 0 to 1, or more.
        height, width: size of the planes in pixels.
        parameters: one row of `pack_photometric`, (PARAMETERS,).
        taps, threshold: `blur_taps` and `solarise_threshold` of the view.
    """
    area = height * width
    if parameters[JITTER_COLUMN] != 0:
        for place in range(4):
            operation = int(parameters[ORDER_COLUMN + place])
            factor = parameters[FACTOR_COLUMN + operation]
            if operation == BRIGHTNESS:
                _brightness(planes, area, factor)
            elif operation == CONTRAST:
                _contrast(planes, area, factor)
            elif operation == SATURATION:
                _saturation(planes, area, factor)
            elif operation == HUE and factor != 0:
                _hue(planes, area, factor)
    if parameters[GRAYSCALE_COLUMN] != 0:
        _grayscale(planes, area)
    if parameters[BLUR_COLUMN] != 0:
        _blur(planes, height, width, parameters[SIGMA_COLUMN], taps)
    if parameters[SOLARISE_COLUMN] != 0:
        _solarise(planes, area, np.float32(threshold))


@kernel
def normalise_planes(
    planes: NDArray[np.float32],
    area: int,
    gain: NDArray[np.float64],
    offset: NDArray[np.float64],
    interleaved: bool,
    out: NDArray[np.float32],
) -> None:
    """Set out to planes * gain + offset for each channel, as planes or as interleaved pixels.

    Args:
        planes: flat, 3 * area values or more.
        area: pixels of a plane.
        gain, offset: (3,).
        interleaved: red, green, blue, red, ... (channels last) or three planes.
        out: flat, 3 * area values.
    """
    red, green, blue = planes[:area], planes[area : 2 * area], planes[2 * area : 3 * area]
    gain_r, gain_g, gain_b = np.float32(gain[0]), np.float32(gain[1]), np.float32(gain[2])
    offset_r, offset_g, offset_b = (
        np.float32(offset[0]),
        np.float32(offset[1]),
        np.float32(offset[2]),
    )
    if interleaved:
        for i in range(area):
            out[3 * i] = red[i] * gain_r + offset_r
            out[3 * i + 1] = green[i] * gain_g + offset_g
            out[3 * i + 2] = blue[i] * gain_b + offset_b
    else:
        for i in range(area):
            out[i] = red[i] * gain_r + offset_r
            out[area + i] = green[i] * gain_g + offset_g
            out[2 * area + i] = blue[i] * gain_b + offset_b
