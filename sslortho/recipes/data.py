"""Data sets and loaders."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
from accelerate import Accelerator

from sslortho.augment import EvaluationRenderer, EvaluationSpec, ViewRenderer, ViewSpec
from sslortho.recipes.options import DataOptions, TrainingOptions
from sslortho.data import (
    BetonImages,
    EpochOrder,
    EvaluationLoader,
    EvaluationViewLoader,
    FileSource,
    ImageArray,
    ImageFiles,
    ImageSet,
    PageOrder,
    Source,
    TensorEvaluationLoader,
    TensorLoader,
    TrainLoader,
    ViewLoader,
    balanced_subset,
    load_split,
    require_ffcv,
)
from sslortho.data.ffcv.beton import read_beton
from sslortho.data.image_folder import SMALL_SIDE, read_size
from sslortho.train.launch import share_of_cores


def evaluation_batch(crop_size: int, device: torch.device) -> int:
    """Images of an evaluation batch. On a GPU 512 small ones, 128 of 224 pixels, fewer of larger ones.

    Of size and device alone, so that on any number of ranks an image is in the same batch. A network
    with a small stem keeps maps of the images' full size, 1.6 GB each in ResNet-18. On a CPU 128 and
    16: maps of more than 32 MB are new memory every time, which took as long as the arithmetic.
    """
    most, at_224 = (128, 16) if device.type == "cpu" else (512, 128)
    return max(1, min(most, at_224 * 224**2 // crop_size**2))


def loader_threads(config: DataOptions) -> int:
    """Threads of this rank that decode and augment."""
    return share_of_cores() if config.workers is None else config.workers


def load_training_set(config: DataOptions) -> ImageSet:
    """The images to train on, before any are left to other ranks."""
    train = load_split(config.data, config.data_dir, "train", config.loader, config.follow_links)
    assert train is not None
    return train if config.subset is None else balanced_subset(train, config.subset, config.seed)


def load_test_set(config: DataOptions) -> ImageSet | None:
    """The images to test on; None where a folder has none."""
    return load_split(config.data, config.data_dir, "test", config.loader, config.follow_links)


def first_size(data: ImageSet) -> tuple[int, int]:
    """Width and height of the first image, in pixels."""
    if isinstance(data, ImageArray):
        return data.images.shape[3], data.images.shape[2]
    if isinstance(data, ImageFiles):
        return read_size(data.paths[0])
    record = read_beton(data.path).images[data.places[0]]
    return int(record["width"]), int(record["height"])


def holds_small_images(data: ImageSet) -> bool:
    """Whether images are as small as CIFAR's, or in memory: their evaluation view is the whole image."""
    return isinstance(data, ImageArray) or max(first_size(data)) <= SMALL_SIDE


def _check_workers(config: DataOptions, data: ImageSet) -> None:
    if isinstance(data, ImageArray) and config.workers is not None:
        raise ValueError(
            f"workers={config.workers} has no effect on data={config.data!r}, whose images lie in "
            "memory; --threads says how many render them on a CPU"
        )


def build_train_loader(
    config: TrainingOptions, data: ImageSet, views: Sequence[ViewSpec], accelerator: Accelerator
) -> TrainLoader:
    """Random views of the training set, this rank's share."""
    if config.batch_size % config.accumulation_steps:
        raise ValueError(
            f"batch_size={config.batch_size} does not divide into accumulation_steps="
            f"{config.accumulation_steps} parts; choose a multiple"
        )
    if config.batch_size > len(data):
        raise ValueError(
            f"batch_size={config.batch_size} is larger than the data ({len(data)} images); "
            "choose a smaller one"
        )
    renderer = ViewRenderer(tuple(views), config.seed, config.channels_last)
    order = _build_order(config, data, accelerator)
    _check_workers(config, data)
    if isinstance(data, ImageArray):
        return TensorLoader(data, renderer, order, accelerator.device)
    source = _open_source(data, config.cache or "os")
    return ViewLoader(source, renderer, order, accelerator.device, loader_threads(config))


def _build_order(config: TrainingOptions, data: ImageSet, accelerator: Accelerator) -> EpochOrder:
    options = {
        "size": len(data),
        "batch_size": config.batch_size // config.accumulation_steps,
        "seed": config.seed,
        "rank": accelerator.process_index,
        "world_size": accelerator.num_processes,
    }
    if isinstance(data, BetonImages) and config.cache == "process":
        return PageOrder(**options, pages=data.pages)
    return EpochOrder(**options)


@lru_cache(maxsize=4)
def _open_source(data: ImageFiles | BetonImages, cache: Literal["os", "process"]) -> Source:
    # kept, since the training set is read for training and for evaluation
    if isinstance(data, ImageFiles):
        return FileSource(data)
    return require_ffcv().BetonSource(data, cache)


def build_evaluation_loader(
    config: DataOptions, data: ImageSet, spec: EvaluationSpec, accelerator: Accelerator
) -> EvaluationLoader:
    """The evaluation view of a data set, this rank's share."""
    rank, world_size = accelerator.process_index, accelerator.num_processes
    return _evaluation_loader(config, data, spec, accelerator.device, rank, world_size)


def _evaluation_loader(
    config: DataOptions,
    data: ImageSet,
    spec: EvaluationSpec,
    device: torch.device,
    rank: int,
    world_size: int,
) -> EvaluationLoader:
    renderer = EvaluationRenderer(spec, config.channels_last)
    batch = evaluation_batch(spec.crop_size, device)
    _check_workers(config, data)
    if isinstance(data, ImageArray):
        return TensorEvaluationLoader(data, renderer, batch, device, rank, world_size)
    source = _open_source(data, config.cache or "os")
    workers = loader_threads(config)
    return EvaluationViewLoader(source, renderer, batch, device, workers, rank, world_size)


def evaluation_views(
    config: DataOptions, data: ImageSet, spec: EvaluationSpec, indices: torch.Tensor
) -> torch.Tensor:
    """The evaluation views (n, 3, size, size) of these samples (n,), on the CPU, in order."""
    chosen = data.select(indices)
    loader = _evaluation_loader(config, chosen, spec, torch.device("cpu"), 0, 1)
    return torch.cat([batch.views[0] for batch in loader])
