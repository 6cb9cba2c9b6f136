"""The pipelines of this package's loaders, as pretraining builds them."""

from typing import Any

import torch
from torch import Tensor

from sslortho.augment import ViewRenderer
from sslortho.data import (
    Batch,
    EpochOrder,
    ImageFiles,
    PixelSource,
    Source,
    TensorLoader,
    ViewLoader,
    load_split,
    require_ffcv,
)

from .workload import FAST_PASSES, Batches, Pipeline, Workload


def _get_views(batch: Batch) -> tuple[Tensor, ...]:
    return batch.views


def _create_batches(work: Workload, source: Source) -> Pipeline:
    renderer = ViewRenderer(work.specs, seed=0, channels_last=True)
    order = EpochOrder(len(source.labels), work.batch_size)
    loader = ViewLoader(source, renderer, order, torch.device("cpu"), work.workers)
    return Batches(loader, _get_views, work.specs[0])


def create_ours_folder(work: Workload) -> Pipeline:
    files = ImageFiles(work.paths, torch.full((len(work.paths),), -1), ())
    return _create_batches(work, PixelSource(files.select(work.places(FAST_PASSES))))


def _select_beton(work: Workload) -> Any:
    data: Any = load_split("beton", work.beton, "train")
    return data.select(work.places(FAST_PASSES))


def create_ours_beton(work: Workload) -> Pipeline:
    return _create_batches(work, _select_beton(work).source("os"))


def create_ours_beton_ffcv(work: Workload) -> Pipeline:
    return _create_batches(work, require_ffcv().BetonSource(_select_beton(work), "os"))


def create_ours_tensor(work: Workload) -> Pipeline:
    assert work.array is not None
    renderer = ViewRenderer(work.specs, seed=0, channels_last=True)
    data = work.array.select(work.places(FAST_PASSES))
    order = EpochOrder(len(data), work.batch_size)
    loader = TensorLoader(data.images, data.labels, renderer, order, torch.device("cpu"))
    return Batches(loader, _get_views, work.specs[0])
