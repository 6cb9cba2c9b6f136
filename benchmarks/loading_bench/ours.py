"""Our loaders, as pretraining builds them."""

from typing import Any

import torch
from torch import Tensor

from sslortho.augment import ViewRenderer
from sslortho.data import (
    Batch,
    EpochOrder,
    FileSource,
    ImageFiles,
    Source,
    TensorLoader,
    ViewLoader,
    load_split,
    require_ffcv,
)

from .workload import FAST_PASSES, Batches, Pipeline, Workload


def _views(batch: Batch) -> tuple[Tensor, ...]:
    return batch.views


def _ours(work: Workload, source: Source) -> Pipeline:
    renderer = ViewRenderer(work.specs, seed=0, channels_last=True)
    order = EpochOrder(len(source.labels), work.batch_size)
    loader = ViewLoader(source, renderer, order, torch.device("cpu"), work.workers)
    return Batches(loader, _views, work.specs[0].crop_size)


def ours_folder(work: Workload) -> Pipeline:
    files = ImageFiles(work.paths, torch.full((len(work.paths),), -1), ())
    return _ours(work, FileSource(files.select(work.places(FAST_PASSES))))


def ours_beton(work: Workload) -> Pipeline:
    data: Any = load_split("beton", work.beton, "train")
    source = require_ffcv().BetonSource(data.select(work.places(FAST_PASSES)), "os")
    return _ours(work, source)


def ours_tensor(work: Workload) -> Pipeline:
    assert work.array is not None
    renderer = ViewRenderer(work.specs, seed=0, channels_last=True)
    data = work.array.select(work.places(FAST_PASSES))
    order = EpochOrder(len(data), work.batch_size)
    loader = TensorLoader(data, renderer, order, torch.device("cpu"))
    return Batches(loader, _views, work.specs[0].crop_size)
