"""One decoded image to its finished views on a CPU, in one call without the GIL.

Every loader makes the same call. A view is described by a row of numbers, so random views and the
centre crop of evaluation take one path, and pixels are equal whatever the images are read from.
"""

import numpy as np
from numpy.typing import NDArray

from sslortho.augment.cpu.geometry_kernel import WINDOW, crop_planes
from sslortho.augment.cpu.photometric_kernel import adjust_planes, normalise_planes
from sslortho.augment.draws.crops import FLIP, centre_interval, draw_box, draw_padded_place
from sslortho.augment.numba_kernel import kernel
from sslortho.augment.views import EvaluationSpec, ViewSpec

CROP_SIZE, RESIZE, FLIP_P, TAPS, THRESHOLD, PADDING = range(6)
SCALE, RATIO, GAIN, OFFSET, SETTINGS = 6, 8, 10, 13, 16
"""Columns of the table of `view_settings`: two of scale, two of ratio, three of gain, three of offset.

SETTINGS is their number.
"""


def view_settings(specs: tuple[ViewSpec, ...] | tuple[EvaluationSpec, ...]) -> NDArray[np.float64]:
    """Return specifications as a table, (views, SETTINGS), for the kernels below."""
    table = np.zeros((len(specs), SETTINGS))
    for row, spec in zip(table, specs, strict=True):
        row[CROP_SIZE] = spec.crop_size
        row[GAIN : GAIN + 3] = 1 / np.array(spec.std)
        row[OFFSET : OFFSET + 3] = -np.array(spec.mean) / np.array(spec.std)
        if isinstance(spec, EvaluationSpec):
            row[RESIZE] = spec.resize
        else:
            row[FLIP_P], row[TAPS] = spec.flip_p, spec.blur_taps
            row[THRESHOLD] = spec.solarise_threshold
            row[PADDING] = -1 if spec.crop_padding is None else spec.crop_padding
            row[SCALE : SCALE + 2], row[RATIO : RATIO + 2] = spec.crop_scale, spec.crop_ratio
    return table


@kernel
def choose_window(
    uniform: NDArray[np.float64], settings: NDArray[np.float64], height: int, width: int
) -> NDArray[np.float64]:
    """Choose the window, (WINDOW,), that a view shows of an image, for `crop_planes`.

    Args:
        uniform: (GEOMETRY_DRAWS,) from (0, 1); unused by the centre crop of evaluation.
        settings: one row of `view_settings`, (SETTINGS,).
        height, width: size of the image in pixels.

    Raises ValueError if the image is smaller than the crop even with its padding.
    """
    window = np.zeros(WINDOW)
    if settings[RESIZE] > 0:
        short, resize, size = min(height, width), int(settings[RESIZE]), int(settings[CROP_SIZE])
        window[0], window[1] = centre_interval(height, short, resize, size)
        window[4], window[5] = centre_interval(width, short, resize, size)
        window[3], window[7] = height, width
        return window
    if settings[PADDING] >= 0:
        h = w = int(settings[CROP_SIZE])
        top, left = draw_padded_place(uniform, height, width, h, int(settings[PADDING]))
    else:
        scale = (settings[SCALE], settings[SCALE + 1])
        ratio = (settings[RATIO], settings[RATIO + 1])
        top, left, h, w = draw_box(uniform, height, width, scale, ratio)
    window[0], window[1] = top, h
    window[2], window[3] = _clip(top, height), _clip(top + h, height)
    window[4], window[5] = left, w
    window[6], window[7] = _clip(left, width), _clip(left + w, width)
    window[8] = uniform[FLIP] < settings[FLIP_P]
    return window


@kernel
def _clip(place: int, size: int) -> int:
    return min(max(place, 0), size)


@kernel
def crop_views(
    image: NDArray[np.uint8],
    uniform: NDArray[np.float64],
    settings: NDArray[np.float64],
    out: NDArray[np.uint8],
) -> None:
    """Cut the crops of one image, for a device that renders the photometry.

    Args:
        image: (height, width, 3), contiguous.
        uniform: (views, GEOMETRY_DRAWS) from (0, 1).
        settings: (views, SETTINGS), see `view_settings`.
        out: contiguous, of three dimensions or more; filled with (crop_size, crop_size, 3) of one
            view after the other. (FFCV makes numba's types of byte arrays of one and two dimensions
            read-only; numba then does not find kernels compiled for the writable types.)
    """
    flat, start, lengths = out.reshape(-1), 0, _view_lengths(settings)
    memory = np.empty(lengths.max(), np.float32)
    for view in range(len(settings)):
        size = int(settings[view, CROP_SIZE])
        area = size * size
        planes, pixels = memory[: 3 * area], flat[start : start + 3 * area]
        window = choose_window(uniform[view], settings[view], image.shape[0], image.shape[1])
        crop_planes(image, window, size, planes)
        for i in range(area):
            pixels[3 * i] = np.uint8(planes[i])
            pixels[3 * i + 1] = np.uint8(planes[area + i])
            pixels[3 * i + 2] = np.uint8(planes[2 * area + i])
        start += 3 * area


@kernel
def _view_lengths(settings: NDArray[np.float64]) -> NDArray[np.int64]:
    """Number of values in each view of an image, (views,)."""
    return (3 * settings[:, CROP_SIZE] ** 2).astype(np.int64)


@kernel
def render_views(
    image: NDArray[np.uint8],
    uniform: NDArray[np.float64],
    parameters: NDArray[np.float32],
    settings: NDArray[np.float64],
    interleaved: bool,
    out: NDArray[np.float32],
    sample: int,
) -> None:
    """Render the finished views of one image.

    Args:
        image: (height, width, 3), contiguous.
        uniform: (views, GEOMETRY_DRAWS) from (0, 1).
        parameters: (views, PARAMETERS), rows of `pack_photometric`.
        settings: (views, SETTINGS), see `view_settings`.
        interleaved: write pixels (channels last) or planes.
        out: contiguous, of any shape: (batch, 3 * crop_size * crop_size) of one view after the
            other. The row of this sample is filled in each.
        sample: number of that row, from 0 to batch - 1.
    """
    flat, start, lengths = out.reshape(-1), 0, _view_lengths(settings)
    batch = len(flat) // lengths.sum()
    memory = np.empty(lengths.max(), np.float32)
    for view in range(len(settings)):
        size, length = int(settings[view, CROP_SIZE]), lengths[view]
        place = start + sample * length
        planes, row = memory[:length], flat[place : place + length]
        window = choose_window(uniform[view], settings[view], image.shape[0], image.shape[1])
        crop_planes(image, window, size, planes)
        _finish(planes, size, parameters[view], settings[view], interleaved, row)
        start += batch * length


@kernel
def _finish(planes, size, parameters, settings, interleaved, out):
    for i in range(len(planes)):
        planes[i] /= np.float32(255)  # a product rounds 128 / 255, the threshold, to another number
    adjust_planes(planes, size, size, parameters, int(settings[TAPS]), settings[THRESHOLD])
    gain, offset = settings[GAIN : GAIN + 3], settings[OFFSET : OFFSET + 3]
    normalise_planes(planes, size * size, gain, offset, interleaved, out)


@kernel
def render_crops(
    crops: NDArray[np.uint8],
    parameters: NDArray[np.float32],
    settings: NDArray[np.float64],
    interleaved: bool,
    out: NDArray[np.float32],
) -> None:
    """Render the photometry of finished crops, all of one view.

    Args:
        crops: (batch, crop_size, crop_size, 3), contiguous.
        parameters: (batch, PARAMETERS), rows of `pack_photometric`.
        settings: (SETTINGS,), one row of `view_settings`.
        interleaved: write pixels (channels last) or planes.
        out: (batch, 3 * crop_size * crop_size); filled.
    """
    size = crops.shape[1]
    area = size * size
    planes = np.empty(3 * area, np.float32)
    for sample in range(len(crops)):
        pixels = crops[sample].reshape(-1)
        for i in range(area):
            planes[i] = pixels[3 * i]
            planes[area + i] = pixels[3 * i + 1]
            planes[2 * area + i] = pixels[3 * i + 2]
        _finish(planes, size, parameters[sample], settings, interleaved, out[sample])
