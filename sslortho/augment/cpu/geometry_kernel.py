"""Antialiased bicubic crops on a CPU: `geometry.crop_and_resize` for one image of any size.

Compiled by numba, free of the GIL. Sixteen rows of the result are made at a time, in the second-level
cache: source rows are combined along the height, turned so that the sixteen lie side by side, combined
along the width all sixteen at once, and turned back.
"""

import numpy as np
from numpy.typing import NDArray

from sslortho.augment.cpu.compiled import kernel
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

BLOCK = 2 * LANES

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
def draw_padded_place(
    uniform: NDArray[np.float64], height: int, width: int, size: int, padding: int
) -> tuple[int, int]:
    """(top, left) of a square of `size` pixels in an image padded on every side; -padding or more.

    Raises ValueError if the padded image is smaller than the square.
    """
    down, across = height + 2 * padding - size + 1, width + 2 * padding - size + 1
    if down < 1 or across < 1:
        raise ValueError(
            "an image is smaller than crop_size even with crop_padding on every side; choose a "
            "larger crop_padding or a smaller crop_size"
        )
    top = int(np.floor(uniform[2 * TRIES] * down)) - padding
    left = int(np.floor(uniform[2 * TRIES + 1] * across)) - padding
    return top, left


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
        for k in range(high - low):  # of a place far outside of the image the range is empty
            exact[k] = _cubic((low + k + 0.5 - centre) / widened)
            total += exact[k]
        begin[i] = low
        count[i] = high - low if total != 0 else 0
        for k in range(count[i]):
            weights[i, k] = exact[k] / total
    return begin, count, weights


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
    """Cut a window out of an image, resample and flip it; beyond the image it is black.

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
    """Along the width, for sixteen rows side by side: whole levels of each channel and column.

    turned: LANES rows of each channel of each source pixel. columns: the same of each channel, of
    each result pixel, with LANES pixels to spare after each channel.
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
    """Turn columns back into rows y to y + height of each plane."""
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
