"""Pipelines of Meta's SPDL: threads in one process, over functions that hold no lock of Python.

spdl-io decodes and filters with FFmpeg; it has no colour jitter, so AlbumentationsX makes the colours.
Both are imported where they are used: they may be missing.
"""

# pyright: reportMissingImports=false

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from sslortho.augment import ViewSpec

from .albumentations_pipeline import (
    AlbumentationsPair,
    create_albumentations_steps,
    read_with_opencv,
)
from .workload import FAST_PASSES, Batches, Pipeline, Workload

Render = Callable[[str], list[Tensor]]


def stack_pairs(pairs: list[list[Tensor]]) -> list[Tensor]:
    """Both views of a batch, each (batch, 3, size, size)."""
    return [torch.stack(views) for views in zip(*pairs, strict=True)]


class SpdlLoader:
    """Yields the batches (first, second) of a round; SPDL builds a pipeline for each, as it documents."""

    def __init__(self, work: Workload, render: Render) -> None:
        self.work = work
        self.render = render

    def __iter__(self) -> Iterator[list[Tensor]]:
        from spdl.pipeline import PipelineBuilder

        torch.set_num_threads(1)  # SPDL's threads are all that there is room for
        work = self.work
        paths = [work.paths[place] for place in work.places(FAST_PASSES).tolist()]
        random.shuffle(paths)
        pipeline = (
            PipelineBuilder()
            .add_source(paths)
            .pipe(self.render, concurrency=work.workers)
            .aggregate(work.batch_size, drop_last=True)
            .pipe(stack_pairs)
            .add_sink(3)
            .build(num_threads=work.workers, max_failures=0)
        )
        with pipeline.auto_stop():
            yield from pipeline.get_iterator()


class OpenCvRender:
    """Decodes with OpenCV; AlbumentationsX does the rest."""

    def __init__(self, work: Workload) -> None:
        self.transform = AlbumentationsPair(work.specs)

    def __call__(self, path: str) -> list[Tensor]:
        return self.transform(read_with_opencv(path))


def describe_crop(spec: ViewSpec, height: int, width: int) -> str:
    """Draw a random resized crop and a flip, as FFmpeg's filters."""
    image = torch.empty(3, height, width, device="meta")
    place = RandomResizedCrop.get_params(image, list(spec.crop_scale), list(spec.crop_ratio))
    top, left, rows, columns = place
    flip = ",hflip" if random.random() < spec.flip_p else ""
    side = spec.crop_size
    crop = f"crop={columns}:{rows}:{left}:{top}:exact=1"
    return f"{crop},scale={side}:{side}:flags=bicubic{flip}"


class SpdlIoRender:
    """spdl-io decodes once and crops both views in one graph of filters; AlbumentationsX colours."""

    def __init__(self, work: Workload) -> None:
        import albumentations as album
        import cv2

        cv2.setNumThreads(0)
        self.specs = work.specs
        self.colours = [
            album.Compose(create_albumentations_steps(spec)[2:], telemetry=False)
            for spec in work.specs
        ]

    def crop(self, path: str) -> NDArray[np.uint8]:
        """Both crops: (2, size, size, 3)."""
        import spdl.io

        packets: Any = spdl.io.demux_image(path)
        first, second = (describe_crop(s, packets.height, packets.width) for s in self.specs)
        graph = f"split[a][b];[a]{first}[c];[b]{second}[d];[c][d]vstack,format=pix_fmts=rgb24"
        frames: Any = spdl.io.decode_packets(packets, filter_desc=graph)
        side = self.specs[0].crop_size
        return spdl.io.to_numpy(spdl.io.convert_frames(frames)).reshape(2, side, side, 3)

    def __call__(self, path: str) -> list[Tensor]:
        crops = zip(self.colours, self.crop(path), strict=True)
        return [colour(image=crop)["image"] for colour, crop in crops]


def create_spdl(work: Workload) -> Pipeline:
    return Batches(SpdlLoader(work, OpenCvRender(work)), list, work.specs[0])


def create_spdl_io(work: Workload) -> Pipeline:
    return Batches(SpdlLoader(work, SpdlIoRender(work)), list, work.specs[0])
