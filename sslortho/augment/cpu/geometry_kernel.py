"""Antialiased bicubic crops on a CPU: `reference.geometry.crop_and_resize` for one image of any size.

Compiled by numba, without the GIL. Sixteen rows of the result are made at a time, in the second-level
cache. Source rows are combined along the height, transposed so that the sixteen lie side by side,
combined along the width all sixteen at once, and transposed back.
"""

import numpy as np
from numpy.typing import NDArray

from sslortho.augment.cpu.simd import (
    LANES,
    load,
    load_bytes,
    multiply_add,
    splat,
    store,
    to_levels,
    transpose,
    zeros,
)
from sslortho.augment.numba_kernel import kernel

BLOCK = 2 * LANES
"""Values that are combined at a time along the height."""

WINDOW = 9
"""Numbers that describe a crop: start, length, first, last of its rows; the same of its columns; flip.

They are the arguments of `resampling_taps`, in source pixels; flip is 0 or 1.
"""


@kernel
def _cubic(x: float) -> float:
    # reference.geometry.cubic
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
    """Compute the non-zero weights of `reference.geometry.resampling_weights`.

    Args:
        start, length: the interval in source pixels, resampled to `out` pixels.
        first, last: source pixels from `first` to before `last` may contribute.
        out: number of result pixels.

    Returns:
        begin (out,), count (out,) and weights (out, most taps): result pixel i is the sum of
        weights[i, k] * source[begin[i] + k] for k below count[i]. The count is 0 where no pixel
        contributes.
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
        for k in range(high - low):  # empty where the place is far outside of the image
            exact[k] = _cubic((low + k + 0.5 - centre) / widened)
            total += exact[k]
        begin[i] = low
        count[i] = high - low if total != 0 else 0
        for k in range(count[i]):
            weights[i, k] = exact[k] / total
    return begin, count, weights


@kernel
def _combine_rows(source, base, stride, width, weights, count, row):
    """Set row[i] to the sum over k of weights[k] * source[base + k * stride + i], for i below width."""
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
    """Cut a window out of an image, resample and flip it; outside the image it is black.

    Args:
        image: (height, width, 3), contiguous.
        window: (WINDOW,), see `view_kernel.choose_window`.
        size: side of the result in pixels.
        planes: flat, 3 * size * size values or more; filled with the red, the green and the blue
            plane in whole grey levels, 0 to 255.
    """
    first, last = int(window[6]), int(window[7])
    row_begin, row_count, row_weights = resampling_taps(
        window[0], window[1], int(window[2]), int(window[3]), size
    )
    begin, count, weights = resampling_taps(window[4], window[5], first, last, size)
    if window[8] != 0:  # flip
        begin, count, weights = begin[::-1].copy(), count[::-1].copy(), weights[::-1].copy()
    begin -= first
    source = image.reshape(-1)
    stride = 3 * image.shape[1]
    width = 3 * (last - first)
    pitch = (width + LANES - 1) // LANES * LANES
    rows = np.zeros(LANES * pitch, np.float32)
    turned = np.empty(LANES * pitch, np.float32)
    columns = np.empty(3 * (size + LANES) * LANES, np.float32)
    for y in range(0, size, LANES):
        height = min(LANES, size - y)
        for i in range(height):
            base = row_begin[y + i] * stride + 3 * first
            row = rows[i * pitch : (i + 1) * pitch]
            _combine_rows(source, base, stride, width, row_weights[y + i], row_count[y + i], row)
        for j in range(0, width, LANES):
            transpose(rows, j, pitch, turned, j * LANES, LANES)
        _combine_columns(turned, begin, weights, count, columns)
        _write_planes(columns, planes, size, y, height)


@kernel
def _combine_columns(turned, begin, weights, count, columns):
    """Combine sixteen rows side by side along the width, and round to whole levels.

    Args:
        turned: LANES values, one of each row, for each channel of each source pixel; flat.
        begin, weights, count: those of `resampling_taps`.
        columns: filled with LANES values for each result pixel of each channel, channel after
            channel, with room for LANES more pixels after each channel; flat.
    """
    size = len(begin)
    for x in range(size):
        red, green, blue = zeros(), zeros(), zeros()
        at = 3 * LANES * begin[x]
        for k in range(count[x]):
            weight = splat(weights[x, k])
            red = multiply_add(load(turned, at), weight, red)
            green = multiply_add(load(turned, at + LANES), weight, green)
            blue = multiply_add(load(turned, at + 2 * LANES), weight, blue)
            at += 3 * LANES
        store(columns, x * LANES, to_levels(red))
        store(columns, (size + LANES + x) * LANES, to_levels(green))
        store(columns, (2 * (size + LANES) + x) * LANES, to_levels(blue))


@kernel
def _write_planes(columns, planes, size, y, height):
    """Transpose columns into rows y to y + height of each plane."""
    square = np.empty(LANES * LANES, np.float32)
    for channel in range(3):
        for x in range(0, size, LANES):
            at = (channel * (size + LANES) + x) * LANES
            to = (channel * size + y) * size + x
            if height == LANES and x + LANES <= size:
                transpose(columns, at, LANES, planes, to, size)
                continue
            transpose(columns, at, LANES, square, 0, LANES)
            for i in range(height):
                for k in range(min(LANES, size - x)):
                    planes[to + i * size + k] = square[i * LANES + k]
