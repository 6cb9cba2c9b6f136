"""Data sets and loaders as the options ask for them."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator

from sslortho.augment import EvaluationRenderer, EvaluationSpec, ViewRenderer, ViewSpec
from sslortho.data import (
    EvaluationLoader,
    ImageSet,
    TensorLoader,
    ViewLoader,
    balanced_subset,
    load_split,
    named_subset,
)
from sslortho.recipes.options import BackboneOptions, DataOptions, TrainingOptions
from sslortho.train.launch import share_of_cores


def load_training_set(options: DataOptions) -> ImageSet:
    """The images to train on, those of all ranks."""
    train = load_split(
        options.data, options.data_dir, "train", options.loader, options.follow_links
    )
    assert train is not None
    if options.subset is None:
        return train
    return balanced_subset(train, options.subset, options.seed)


def load_test_set(options: DataOptions) -> ImageSet | None:
    """The images to test on; None if the data set has none."""
    return load_split(options.data, options.data_dir, "test", options.loader, options.follow_links)


def _loader_threads(options: DataOptions, data: ImageSet) -> int:
    """Threads of this rank that decode and render.

    Raises ValueError for `workers` where the images lie in memory.
    """
    if options.workers is None:
        return share_of_cores()
    if data.in_memory:
        raise ValueError(
            f"workers={options.workers} has no effect on data={options.data!r}, whose images lie in "
            "memory; --threads says how many render them on a CPU"
        )
    return options.workers


def build_train_loader(
    options: TrainingOptions, data: ImageSet, views: Sequence[ViewSpec], accelerator: Accelerator
) -> TensorLoader | ViewLoader:
    """Random views of the training set, this rank's share.

    Raises ValueError for a batch that is larger than the data, or does not divide into the accumulated
    parts or among the ranks.
    """
    if options.batch_size % options.accumulation_steps:
        raise ValueError(
            f"batch_size={options.batch_size} does not divide into accumulation_steps="
            f"{options.accumulation_steps} parts; choose a multiple"
        )
    if options.batch_size > len(data):
        raise ValueError(
            f"batch_size={options.batch_size} is larger than the data ({len(data)} images); "
            "choose a smaller one"
        )
    return data.create_train_loader(
        ViewRenderer(tuple(views), options.seed, options.channels_last),
        batch_size=options.batch_size // options.accumulation_steps,
        seed=options.seed,
        device=accelerator.device,
        workers=_loader_threads(options, data),
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        cache=options.cache or "os",
    )


def evaluation_batch(crop_size: int, device: torch.device) -> int:
    """Images of an evaluation batch, by the side of their views in pixels.

    It depends on size and device alone, so that an image is in the same batch on any number of ranks.
    On a GPU 512 small images, 128 of 224 pixels, fewer of larger ones: a network with a small stem keeps
    maps of the images' full size, 1.6 GB each in ResNet-18. On a CPU 128 and 16: maps of more than 32 MB
    are new memory every time, which took as long as the arithmetic.
    """
    most, at_224 = (128, 16) if device.type == "cpu" else (512, 128)
    return max(1, min(most, at_224 * 224**2 // crop_size**2))


def build_evaluation_loader(
    options: DataOptions, data: ImageSet, spec: EvaluationSpec, accelerator: Accelerator
) -> EvaluationLoader:
    """The evaluation view of a data set, this rank's share."""
    rank, world_size = accelerator.process_index, accelerator.num_processes
    return _evaluation_loader(options, data, spec, accelerator.device, rank, world_size)


def _evaluation_loader(
    options: DataOptions,
    data: ImageSet,
    spec: EvaluationSpec,
    device: torch.device,
    rank: int,
    world_size: int,
) -> EvaluationLoader:
    return data.create_evaluation_loader(
        EvaluationRenderer(spec, options.channels_last),
        batch_size=evaluation_batch(spec.crop_size, device),
        device=device,
        workers=_loader_threads(options, data),
        rank=rank,
        world_size=world_size,
        cache=options.cache or "os",
    )


def evaluation_views(
    options: DataOptions, data: ImageSet, spec: EvaluationSpec, indices: torch.Tensor
) -> torch.Tensor:
    """The evaluation views (n, 3, size, size) of the samples `indices` (n,), on the CPU, in order."""
    chosen = data.select(indices)
    loader = _evaluation_loader(options, chosen, spec, torch.device("cpu"), 0, 1)
    return torch.cat([batch.views[0] for batch in loader])


@dataclass(frozen=True)
class LabelledData:
    """Labelled images to train and to test on."""

    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    """Names of the classes, or their numbers where they have no names."""


def load_labelled_data(options: DataOptions) -> LabelledData:
    """Load and check labelled training and test images.

    Raises ValueError if labels or test images are missing, or if they do not go together.
    """
    train, test = load_training_set(options), load_test_set(options)
    if test is None:
        raise ValueError(f"data_dir={options.data_dir!r} has no test images; add test/ or val/")
    for name, data in (("training", train), ("test", test)):
        if int(data.labels.min()) < 0:
            raise ValueError(
                f"data={options.data!r}, data_dir={options.data_dir!r}: the {name} images have no labels; "
                "class folders are needed"
            )
    names = train.classes or tuple(str(i) for i in range(int(train.labels.max()) + 1))
    found = int(test.labels.max()) + 1
    if found > len(names):
        raise ValueError(
            f"the test images are of {found} classes, the training images of {len(names)}; they must "
            "be of one data set"
        )
    return LabelledData(train, test, names)


def choose_training_images(options: BackboneOptions, data: LabelledData) -> LabelledData:
    """Keep the training images that `train_percent` or `train_list` ask for.

    Raises ValueError if they are too few, or all of one class.
    """
    train = data.train
    if options.train_percent is not None:
        train = _share(train, options.train_percent, len(data.classes), options.seed)
    if options.train_list is not None:
        train = named_subset(train, Path(options.train_list))
    return check_classes(options, replace(data, train=train))


def check_classes(options: DataOptions, data: LabelledData) -> LabelledData:
    """Return the same data, with a warning if some class has no training images.

    Raises ValueError if the training images are all of one class.
    """
    labels, names = data.train.labels, data.classes
    present = len(labels.unique())
    if present < 2:
        raise ValueError(
            f"data={options.data!r}: the training images are of one class alone "
            f"({names[int(labels[0])]}); two are needed"
        )
    if present < len(names):
        warnings.warn(
            f"only {present} of {len(names)} classes have training images; test images of the others "
            "count as mistakes",
            stacklevel=2,
        )
    return data


def _share(train: ImageSet, percent: float, classes: int, seed: int) -> ImageSet:
    size = round(len(train) * percent / 100)
    if size == len(train):
        return train
    if size < classes:
        raise ValueError(
            f"train_percent={percent} leaves {size} of {len(train)} images for {classes} classes; "
            "raise it"
        )
    smallest = int(train.labels.unique(return_counts=True)[1].min())
    if -(-size // classes) > smallest:
        raise ValueError(
            f"train_percent={percent} takes {-(-size // classes)} images of each class, and one has "
            f"{smallest}; lower it, or name the images by train_list"
        )
    return balanced_subset(train, size, seed)
