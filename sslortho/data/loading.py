"""Image sets and loaders as `DataOptions` ask for them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sslortho.augment import EvaluationRenderer, EvaluationSpec, ViewRenderer, ViewSpec
from sslortho.augment.own_views import OwnView, OwnViewRenderer
from sslortho.data.batches import EvaluationLoader
from sslortho.data.broken_images import choose_checked
from sslortho.data.datasets import load_split
from sslortho.data.image_files import ImageFiles
from sslortho.data.image_sets import ImageSet, Split
from sslortho.data.names import to_line
from sslortho.data.options import PATH, DataOptions
from sslortho.data.origins import load_place, load_test_place
from sslortho.data.own_view_loader import OwnViewLoader
from sslortho.data.prefetch import share_of_cores
from sslortho.data.subsets import balanced_subset
from sslortho.data.tensor_loader import TensorLoader
from sslortho.data.view_loader import ViewLoader
from sslortho.options import GIVEN


@dataclass(frozen=True)
class Shard:
    """Share of this process in every data set: its device, its index among `count` processes."""

    device: torch.device
    """Device that batches are delivered on."""
    index: int = 0
    count: int = 1


def load_training_set(options: DataOptions, given: ImageSet | None = None) -> ImageSet:
    """The images to train on, those of all ranks.

    Args:
        options: which, and how they are read.
        given: the images themselves, where a Python caller has handed them over.

    Raises ValueError for data="given" without them.
    """
    train = _load_split(options, "train") if given is None else given
    assert train is not None
    if options.subset is None:
        return train
    return balanced_subset(train, options.subset, options.seed)


def load_test_set(
    options: DataOptions, given: ImageSet | None = None, train: ImageSet | None = None
) -> ImageSet | None:
    """The images to test on; None if the data set has none.

    Args:
        options, given: as for `load_training_set`.
        train: the training images, if they are loaded already; their classes are the test images' too.
    """
    if options.data == GIVEN or given is not None:
        return given
    if options.test_data is not None:
        return load_test_place(options.test_data, options, train or load_training_set(options))
    return _load_split(options, "test")


def _load_split(options: DataOptions, split: Split) -> ImageSet | None:
    if options.data == GIVEN:
        raise ValueError(
            "data='given' stands for images that a Python program has handed over, which no command line has: "
            "call sslortho's function with data= as before; a file or folder of this name is ./given"
        )
    if options.data == PATH:
        if options.data_dir is None:
            raise ValueError(f"data={PATH!r} needs data_dir, the path of the images")
        return load_place(options.data_dir, options, split)
    return load_split(
        options.data,
        options.data_dir,
        split,
        options.loader,
        options.follow_links,
        bool(options.skip_broken),
        options.skip_list,
        options.turns_upright,
    )


def name_data(options: DataOptions) -> str:
    """The data as the user named them."""
    if options.data == GIVEN:
        return "the data set that was handed over"
    if options.data == PATH:
        return f"data={options.data_dir!r}"
    if options.data_dir is None:
        return f"data={options.data!r}"
    return f"data={options.data!r}, data_dir={options.data_dir!r}"


def check_workers(options: DataOptions, *images: ImageSet | None) -> None:
    """Raise ValueError for `workers` where all of these image sets lie in memory. None: no images."""
    own_views = getattr(options, "views", None) == GIVEN  # which processes make
    in_memory = all(part is None or part.in_memory for part in images)
    if options.workers is not None and in_memory and not own_views:
        raise ValueError(
            f"workers={options.workers} has no effect on {name_data(options)}, whose images lie in "
            "memory; leave it out: --threads says how many render them on a CPU"
        )


def _count_workers(options: DataOptions) -> int:
    """Threads of this rank that decode and render; image sets in memory do without."""
    return share_of_cores() if options.workers is None else options.workers


def _count_images(images: ImageSet) -> str:
    return f"{len(images)} image{'' if len(images) == 1 else 's'}"


def create_train_loader(
    options: DataOptions,
    images: ImageSet,
    views: Sequence[ViewSpec] | Sequence[OwnView],
    batch_size: int,
    shard: Shard,
    accumulation_steps: int = 1,
) -> TensorLoader | ViewLoader | OwnViewLoader:
    """Random views of a training set, this rank's share.

    Args:
        options: seed, and how images are read.
        images: the training set, of all ranks.
        views: of each image.
        batch_size: samples of one optimizer step, over all ranks.
        shard: this rank's.
        accumulation_steps: parts of a step, each a batch.

    Raises ValueError for a batch that is larger than the data, or does not divide among the ranks, and for an
    image that is too small for a padded crop.
    """
    if batch_size > len(images):
        raise ValueError(
            f"batch_size={batch_size} is larger than the data ({_count_images(images)}); "
            f"{'choose a smaller one' if len(images) > 1 else 'training needs at least 2'}"
        )
    own = [view for view in views if isinstance(view, OwnView)]
    if own:
        batch = batch_size // accumulation_steps
        order = images.epoch_order(batch, options.seed, shard.index, shard.count)
        return OwnViewLoader(
            images,
            OwnViewRenderer(tuple(own), options.seed),
            order,
            shard.device,
            _count_workers(options),
            options.channels_last,
        )
    specs = tuple(view for view in views if isinstance(view, ViewSpec))
    _check_sizes(images, specs)
    workers = _count_workers(options)
    return images.create_train_loader(
        ViewRenderer(specs, options.seed, options.channels_last),
        batch_size=batch_size // accumulation_steps,
        seed=options.seed,
        device=shard.device,
        workers=workers,
        rank=shard.index,
        world_size=shard.count,
        cache=options.cache or "os",
    )


def _check_sizes(images: ImageSet, specs: Sequence[ViewSpec]) -> None:
    """Raise ValueError, naming it, for an image that is too small for a padded crop, if sizes are known."""
    if images.in_memory or not images.tells_sizes:
        return  # the loader of the first checks them; images that only decoding tells are named when read
    if all(spec.crop_padding is None for spec in specs):
        return
    # a file is opened for its size; one that is too small and not in the sample is named when it is read
    chosen = choose_checked(images) if isinstance(images, ImageFiles) else range(len(images))
    indices = np.array(chosen)
    heights, widths = images.sizes(indices)
    place = int(np.minimum(heights, widths).argmin())
    try:
        ViewRenderer(tuple(specs)).check_size(int(heights[place]), int(widths[place]))
    except ValueError as error:
        smallest = int(indices[place])
        name = images.file_of(smallest) or images.name_of(smallest)
        raise ValueError(f"{to_line(name)} is too small: {error}") from error


def evaluation_batch(crop_size: int, device: torch.device) -> int:
    """Images of an evaluation batch, by the side of their views in pixels.

    It depends on size and device alone, so that an image is in the same batch on any number of ranks.
    On a GPU 512 small images, 128 of 224 pixels, fewer of larger ones: a network with a small stem keeps
    maps of the images' full size, 1.6 GB each in ResNet-18. On a CPU 128 and 16: maps of more than 32 MB
    are new memory every time, which took as long as the arithmetic.
    """
    most, at_224 = (128, 16) if device.type == "cpu" else (512, 128)
    return max(1, min(most, at_224 * 224**2 // crop_size**2))


def create_evaluation_loader(
    options: DataOptions,
    images: ImageSet,
    specs: EvaluationSpec | tuple[EvaluationSpec, EvaluationSpec],
    shard: Shard,
) -> EvaluationLoader:
    """The evaluation view of each image, this rank's share.

    Args:
        options: how images are read.
        images: of all ranks.
        specs: the view; or one for photographs and one for small images, which the images choose from.
        shard: this rank's.
    """
    spec = specs[images.holds_small_images] if isinstance(specs, tuple) else specs
    return images.create_evaluation_loader(
        EvaluationRenderer(spec, options.channels_last),
        batch_size=evaluation_batch(spec.crop_size, shard.device),
        device=shard.device,
        workers=_count_workers(options),
        rank=shard.index,
        world_size=shard.count,
        cache=options.cache or "os",
    )


def create_crop_loader(
    options: DataOptions, images: ImageSet, view: ViewSpec, crops: int, shard: Shard
) -> EvaluationLoader:
    """Several random views of each image in its place, this rank's share; each image is decoded once.

    Args:
        options: seed of the draws, and how images are read.
        images: of all ranks.
        view: each of the views.
        crops: number of views of an image.
        shard: this rank's.
    """
    return images.create_evaluation_loader(
        ViewRenderer((view,) * crops, options.seed, options.channels_last),
        batch_size=max(1, evaluation_batch(view.crop_size, shard.device) // crops),
        device=shard.device,
        workers=_count_workers(options),
        rank=shard.index,
        world_size=shard.count,
        cache=options.cache or "os",
    )


def evaluation_views(
    options: DataOptions, images: ImageSet, spec: EvaluationSpec, indices: Tensor
) -> Tensor:
    """The evaluation views (n, 3, size, size) of the samples `indices` (n,), on the CPU, in order."""
    chosen = images.select(indices)
    loader = create_evaluation_loader(options, chosen, spec, Shard(torch.device("cpu")))
    return torch.cat([batch.views[0] for batch in loader])
