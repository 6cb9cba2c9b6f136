"""Time the CPU kernels with and without hand-written vectors: `python benchmarks/bench_simd.py`.

`sslortho/augment/cpu/simd.py` holds the vectors. Here the kernels that use them are written again as
plain loops for numba, and the same random views of one photograph are rendered both ways in turns, on
one thread. Times are of the processor, and a ratio is the median over the rounds, so other load on
the machine matters little.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
from numba import njit

from sslortho.augment import ViewRenderer, create_views
from sslortho.augment.cpu import geometry_kernel, photometric_kernel, view_kernel

IMAGE = (375, 500)
"""Height and width of the photograph: ImageNet's most frequent size."""
SAMPLES = 8
"""Pairs of views rendered in one round."""

compile_plainly: Any = njit(nogil=True, error_model="numpy", fastmath=False)


@compile_plainly
def crop_planes(image, window, size, planes):
    """`geometry_kernel.crop_planes` row by row, without vectors."""
    first, last = int(window[6]), int(window[7])
    row_begin, row_count, row_weights = geometry_kernel.resampling_taps(
        window[0], window[1], int(window[2]), int(window[3]), size
    )
    begin, count, weights = geometry_kernel.resampling_taps(window[4], window[5], first, last, size)
    if window[8] != 0:  # flip
        begin, count, weights = begin[::-1].copy(), count[::-1].copy(), weights[::-1].copy()
    begin -= first
    source, width = image.reshape(-1), 3 * (last - first)
    row, area = np.empty(width, np.float32), size * size
    for y in range(size):
        row[:] = 0
        for k in range(row_count[y]):
            weight = row_weights[y, k]
            start = 3 * ((row_begin[y] + k) * image.shape[1] + first)
            line = source[start : start + width]
            for i in range(width):
                row[i] += weight * np.float32(line[i])
        for x in range(size):
            red = green = blue = np.float32(0)
            for k in range(count[x]):
                weight, at = weights[x, k], 3 * (begin[x] + k)
                red += weight * row[at]
                green += weight * row[at + 1]
                blue += weight * row[at + 2]
            planes[y * size + x] = _to_level(red)
            planes[area + y * size + x] = _to_level(green)
            planes[2 * area + y * size + x] = _to_level(blue)


@compile_plainly
def _to_level(value):
    return np.floor(min(max(value, np.float32(0)), np.float32(255)) + np.float32(0.5))


@compile_plainly
def _convolve(source, at, step, weights, target, to, width):
    """`photometric_kernel._convolve`: one pass over the row for each pair of taps."""
    out, middle = target[to : to + width], source[at : at + width]
    for i in range(width):
        out[i] = weights[0] * middle[i]
    for k in range(1, len(weights)):
        weight = weights[k]
        before = source[at - k * step : at - k * step + width]
        after = source[at + k * step : at + k * step + width]
        for i in range(width):
            out[i] += weight * (before[i] + after[i])


@compile_plainly
def _mean(plane):
    """`photometric_kernel._mean`, summed in float64."""
    total = 0.0
    for i in range(len(plane)):
        total += plane[i]
    return total / len(plane)


def rebuild(kernel: Any, **callees: Any) -> Any:
    """Compile a kernel again with other functions under the names that it calls."""
    function = kernel.py_func
    names = {**function.__globals__, **callees}
    return compile_plainly(FunctionType(function.__code__, names, function.__name__))


def rebuild_adjust_planes() -> Any:
    """`photometric_kernel.adjust_planes` with the plain blur and mean."""
    kernel = photometric_kernel
    mean_luma = rebuild(kernel._mean_luma, _mean=_mean)
    contrast = rebuild(kernel._contrast, _mean_luma=mean_luma)
    blur = rebuild(kernel._blur, _convolve=_convolve)
    return rebuild(kernel.adjust_planes, _blur=blur, _contrast=contrast)


def create_renders() -> dict[str, tuple[Any, Any]]:
    """`render_views` with the plain kernels in the steps that are compared, and ours.

    Returns:
        what is plain, to (plain, ours).
    """
    plain = rebuild_adjust_planes()
    finish = rebuild(view_kernel._finish, adjust_planes=plain)
    ours = view_kernel.render_views
    return {
        "crops": (rebuild(ours, crop_planes=crop_planes), ours),
        "blur and mean": (rebuild(ours, _finish=finish), ours),
        "both": (rebuild(ours, crop_planes=crop_planes, _finish=finish), ours),
    }


def create_render(size: int, image: np.ndarray) -> Callable[[Any], np.ndarray]:
    """A function that renders SAMPLES pairs of views of an image by a given `render_views`."""
    renderer = ViewRenderer(create_views("barlow_twins", size), seed=0, channels_last=True)
    draws, settings = renderer.draw(np.arange(SAMPLES), epoch=0), renderer.settings
    out = np.empty(2 * SAMPLES * 3 * size * size, np.float32)

    def render(render_views: Any) -> np.ndarray:
        for i in range(SAMPLES):
            uniform, parameters = draws.uniforms[i], draws.parameters[i]
            render_views(image, uniform, parameters, settings, True, out, i)
        return out

    return render


def create_image() -> np.ndarray:
    """Coloured waves with noise, uint8 (height, width, 3)."""
    y, x = np.mgrid[0 : 9 : IMAGE[0] * 1j, 0 : 11 : IMAGE[1] * 1j][..., None]
    waves = 128 + 60 * np.sin(2 * y + np.arange(3)) + 50 * np.cos(3 * x - y + np.arange(3))
    noise = np.random.default_rng(0).normal(0, 8, waves.shape)
    return (waves + noise).clip(0, 255).astype(np.uint8)


def time_round(render: Callable[[Any], np.ndarray], pair: tuple[Any, Any]) -> tuple[float, ...]:
    """Milliseconds of processor time for a pair of views: plain, ours."""
    milliseconds = []
    for render_views in pair:
        start = time.thread_time()
        render(render_views)
        milliseconds.append(1000 * (time.thread_time() - start) / SAMPLES)
    return tuple(milliseconds)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the CPU kernels with and without vectors.")
    parser.add_argument(
        "--rounds", type=int, default=20, help="rounds, in which the two take turns"
    )
    parser.add_argument("--size", type=int, default=224, help="side of the views in pixels")
    options = parser.parse_args()
    render = create_render(options.size, create_image())
    print("| plain loops in | plain, ms a pair | vectors, ms a pair | plain / vectors |")
    print("|---|---|---|---|")
    for name, pair in create_renders().items():
        time_round(render, pair)  # compiles
        times = np.array([time_round(render, pair) for _ in range(options.rounds)])
        plain, ours = np.median(times, axis=0)
        ratio = statistics.median(times[:, 0] / times[:, 1])
        print(f"| {name} | {plain:.2f} | {ours:.2f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
