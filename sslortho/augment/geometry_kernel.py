"""Antialiased bicubic crops on a CPU: `geometry.crop_and_resize` for one image of any size.

Compiled by numba, free of the GIL. A row of the result is made in the first-level cache: source
rows are combined along the height, 16 values at a time, then along the width, five pixels at a time.
"""

import numpy as np
from numpy.typing import NDArray

from sslortho.augment.compiled import kernel
from sslortho.augment.lanes import (
    LANES,
    load,
    load_bytes,
    multiply_add,
    splat,
    store,
    store_pixel,
    zeros,
)

BLOCK = 2 * LANES

PIXELS = LANES // 3
"""Whole RGB pixels in one vector."""

TRIES = 10  # as torchvision's RandomResizedCrop
GEOMETRY_DRAWS = 2 * TRIES + 3
"""Uniform numbers that one sample's crop takes."""

WINDOW = 9
"""Numbers that say what is resampled: start, length, first and last of the rows, of the columns; flip."""


@kernel
def draw_box(
    uniform: NDArray[np.float64],
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of one crop; see `geometry.draw_crops`."""
    log_low, log_high = np.log(ratio[0]), np.log(ratio[1])
    for i in range(TRIES):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * uniform[i])
        shape = np.exp(log_low + (log_high - log_low) * uniform[TRIES + i])
        w, h = int(np.rint(np.sqrt(area * shape))), int(np.rint(np.sqrt(area / shape)))
        if 0 < w <= width and 0 < h <= height:
            top = int(np.floor(uniform[2 * TRIES] * (height - h + 1)))
            left = int(np.floor(uniform[2 * TRIES + 1] * (width - w + 1)))
            return top, left, h, w
    w, h = width, height
    if width / height > ratio[1]:
        w = max(int(np.rint(height * ratio[1])), 1)
    elif width / height < ratio[0]:
        h = max(int(np.rint(width / ratio[0])), 1)
    return (height - h) // 2, (width - w) // 2, h, w


@kernel
def centre_interval(size: int, short: int, resize: int, crop_size: int) -> tuple[float, float]:
    """(start, length) in source pixels of what Resize(resize) and CenterCrop(crop_size) leave.

    Args:
        size: of one side.
        short: of the shorter side.
    """
    resized = resize if size == short else int(resize * size / short)  # torchvision rounds down
    scale = size / resized
    return np.rint((resized - crop_size) / 2) * scale, crop_size * scale


@kernel
def _cubic(x: float) -> float:
    # geometry.cubic
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    if x < 2:
        return ((-0.5 * x + 2.5) * x - 4) * x + 2
    return 0.0


@kernel
def resampling_taps(
    start: float, length: float, first: int, last: int, out: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """`geometry.resampling_weights` without the zeros.

    Args:
        start, length: the interval in source pixels, resampled to `out` pixels.
        first, last: source pixels from `first` to before `last` may contribute.
        out: result pixels.

    Returns:
        begin (out,), count (out,) and weights (out, most taps): result pixel i is the sum of
        weights[i, k] * source[begin[i] + k] for k below count[i].
    """
    scale = length / out
    widened = max(scale, 1.0)
    most = int(np.ceil(4 * widened)) + 1
    begin = np.empty(out, np.int64)
    count = np.empty(out, np.int64)
    weights = np.zeros((out, most), np.float32)
    exact = np.empty(most, np.float64)
    for i in range(out):
        centre = start + (i + 0.5) * scale
        low = max(first, int(np.floor(centre - 2 * widened + 0.5)))
        high = min(last, int(np.floor(centre + 2 * widened + 0.5)))
        total = 0.0
        for k in range(high - low):
            exact[k] = _cubic((low + k + 0.5 - centre) / widened)
            total += exact[k]
        for k in range(high - low):
            weights[i, k] = exact[k] / total
        begin[i] = low
        count[i] = high - low
    return begin, count, weights


@kernel
def _spread(count: NDArray[np.int64], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each weight three times (red, green, blue), five pixels and a 0 to a vector, flat."""
    out = len(weights)
    vectors = (int(count.max()) + PIXELS - 1) // PIXELS
    table = np.zeros(out * vectors * LANES, np.float32)
    for i in range(out):
        for k in range(count[i]):
            at = (i * vectors + k // PIXELS) * LANES + 3 * (k % PIXELS)
            table[at] = table[at + 1] = table[at + 2] = weights[i, k]
    return table


@kernel
def _combine_rows(source, base, stride, width, weights, count, row):
    """row[i] = sum of weights[k] * source[base + k * stride + i] for i below width."""
    if width < BLOCK:
        for i in range(width):
            total = np.float32(0)
            for k in range(count):
                total += np.float32(source[base + k * stride + i]) * weights[k]
            row[i] = total
        return
    for start in range(0, width, BLOCK):
        i = min(start, width - BLOCK)  # the last block overlaps the one before
        first, second = zeros(), zeros()
        for k in range(count):
            weight, at = splat(weights[k]), base + k * stride + i
            first = multiply_add(load_bytes(source, at), weight, first)
            second = multiply_add(load_bytes(source, at + LANES), weight, second)
        store(row, i, first)
        store(row, i + LANES, second)


@kernel
def crop_planes(
    image: NDArray[np.uint8], window: NDArray[np.float64], size: int, planes: NDArray[np.float32]
) -> None:
    """Cut a window out of an image, resample and flip it.

    Args:
        image: (height, width, 3), contiguous.
        window: WINDOW numbers, see `view_kernel.choose_window`.
        size: side of the result.
        planes: flat, 3 * size * size values or more: filled with the red, the green and the blue
            plane in whole grey levels, 0 to 255.
    """
    first, last = int(window[6]), int(window[7])
    row_begin, row_count, row_weights = resampling_taps(
        window[0], window[1], int(window[2]), int(window[3]), size
    )
    begin, count, weights = resampling_taps(window[4], window[5], first, last, size)
    if window[8] != 0:  # flip
        begin, count, weights = begin[::-1].copy(), count[::-1].copy(), weights[::-1].copy()
    table = _spread(count, weights)
    vectors = len(table) // (size * LANES)
    source = image.reshape(-1)
    stride = 3 * image.shape[1]
    width = 3 * (last - first)
    # reading a whole last vector goes beyond the width, where weights are 0; so must be no NaN
    row = np.zeros(width + vectors * LANES, np.float32)
    line = np.empty(3 * size + 1, np.float32)
    begin = 3 * (begin - first)
    for y in range(size):
        base = row_begin[y] * stride + 3 * first
        _combine_rows(source, base, stride, width, row_weights[y], row_count[y], row)
        for x in range(size):
            total = zeros()
            for v in range(vectors):
                total = multiply_add(
                    load(row, begin[x] + 3 * PIXELS * v),
                    load(table, (x * vectors + v) * LANES),
                    total,
                )
            store_pixel(line, 3 * x, total)
        for channel in range(3):
            at = (channel * size + y) * size
            _round_levels(line[channel:], planes[at : at + size])


@kernel
def _round_levels(line, plane):
    """Every third value to a whole level from 0 to 255."""
    for x in range(len(plane)):
        value = min(max(line[3 * x], np.float32(0)), np.float32(255))
        plane[x] = np.floor(value + np.float32(0.5))
