"""The pipeline of NVIDIA DALI's CPU operators; it needs no GPU.

As DALI's guides have it: one decode for both views, operators that do several steps in one
(`color_twist`: jitter and greyscale; `crop_mirror_normalize`: flip, normalisation and layout), and
steps of a share of the samples under `if`. DALI is imported where it is used: it may be missing.
"""

# pyright: reportMissingImports=false

import time
from collections.abc import Iterator
from typing import Any

from sslortho.augment import ViewSpec

from .libraries import list_jitter
from .workload import FAST_PASSES, Batches, Pipeline, Workload

PREFETCHED = 2
"""DALI's own default."""


def draw_colours(spec: ViewSpec) -> dict[str, Any]:
    """Arguments of `color_twist`, drawn for each sample; the factors 1 and hue 0 do nothing.

    Greyscale is a saturation of 0.
    """
    import nvidia.dali.fn as fn

    jittered = fn.random.coin_flip(probability=spec.jitter_p)
    coloured = 1 - fn.random.coin_flip(probability=spec.grayscale_p)

    def draw(low: float, high: float, neutral: float) -> Any:
        return neutral + jittered * (fn.random.uniform(range=[low, high]) - neutral)

    brightness, contrast, saturation, hue = list_jitter(spec)
    return {
        "brightness": draw(max(0.0, 1 - brightness), 1 + brightness, 1.0),
        "contrast": draw(max(0.0, 1 - contrast), 1 + contrast, 1.0),
        "saturation": draw(max(0.0, 1 - saturation), 1 + saturation, 1.0) * coloured,
        "hue": draw(-360 * hue, 360 * hue, 0.0),
    }


def create_solarise_table(spec: ViewSpec) -> list[int]:
    """Level to level: inverted from the threshold on."""
    threshold = round(255 * spec.solarise_threshold)
    return [255 - level if level >= threshold else level for level in range(256)]


def build_pipeline(work: Workload) -> Any:
    """DALI's pipeline of both views, float32 (batch, 3, size, size), over a pass of the files."""
    import nvidia.dali.fn as fn
    from nvidia.dali import pipeline_def, types

    files = [work.paths[place] for place in work.places().tolist()]

    def blur(images: Any, spec: ViewSpec) -> Any:
        return fn.gaussian_blur(images, sigma=fn.random.uniform(range=list(spec.blur_sigma)))

    @pipeline_def(
        batch_size=work.batch_size,
        num_threads=work.workers,
        device_id=None,
        enable_conditionals=True,
        prefetch_queue_depth=PREFETCHED,
    )
    def define() -> tuple[Any, ...]:
        contents, _ = fn.readers.file(
            files=files, random_shuffle=True, initial_fill=len(files), name="reader"
        )
        images = fn.decoders.image(contents, device="cpu", output_type=types.RGB)
        views = []
        for spec in work.specs:
            view = fn.random_resized_crop(
                images,
                size=spec.crop_size,
                random_area=list(spec.crop_scale),
                random_aspect_ratio=list(spec.crop_ratio),
                interp_type=types.INTERP_CUBIC,
                antialias=True,
            )
            view = fn.color_twist(view, **draw_colours(spec))
            if spec.blur_p == 1:
                view = blur(view, spec)
            elif spec.blur_p > 0:  # noqa: SIM102 (DALI reads the inner condition)
                if fn.random.coin_flip(probability=spec.blur_p, dtype=types.BOOL):
                    view = blur(view, spec)
            if spec.solarise_p > 0:  # noqa: SIM102 (as above)
                if fn.random.coin_flip(probability=spec.solarise_p, dtype=types.BOOL):
                    view = fn.lookup_table(
                        view,
                        keys=list(range(256)),
                        values=create_solarise_table(spec),
                        dtype=types.UINT8,
                    )
            view = fn.crop_mirror_normalize(
                view,
                dtype=types.FLOAT,
                output_layout="CHW",
                mean=[255 * m for m in spec.mean],
                std=[255 * s for s in spec.std],
                mirror=fn.random.coin_flip(probability=spec.flip_p),
            )
            views.append(view)
        return tuple(views)

    return define()


class DaliLoader:
    """Yields batches (first, second) of FAST_PASSES passes, from a pipeline that is kept.

    DALI prepares PREFETCHED batches of the next round while it has nothing else to do; `settle`
    waits for them, so that they do not slow what is timed next.
    """

    def __init__(self, work: Workload) -> None:
        self.work = work
        self.batches: Any = None
        self.seconds = 0.0

    def __iter__(self) -> Iterator[list[Any]]:
        from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy

        if self.batches is None:
            self.batches = DALIGenericIterator(
                [build_pipeline(self.work)],
                ["first", "second"],
                reader_name="reader",
                last_batch_policy=LastBatchPolicy.DROP,
                auto_reset=True,
            )
        count, start = 0, time.perf_counter()
        for _ in range(FAST_PASSES):
            for batch in self.batches:
                yield [batch[0]["first"], batch[0]["second"]]
                count += 1
        self.seconds = (time.perf_counter() - start) / count

    def settle(self) -> None:
        """Wait as long as the batches take that DALI prepares, and half as long again."""
        time.sleep(1.5 * PREFETCHED * self.seconds)


def create_dali(work: Workload) -> Pipeline:
    return Batches(DaliLoader(work), list, work.specs[0])
