"""Parts of an image set: balanced, named by a list, or held out."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sslortho.data.image_sets import ImageSet
from sslortho.data.names import compose


def _by_class(labels: Tensor, order: Tensor) -> tuple[Tensor, ...]:
    """The indices of each class, classes ascending, those of a class as they follow in `order`."""
    found, places = labels[order].sort(stable=True)
    counts = found.unique_consecutive(return_counts=True)[1]
    return order[places].split(counts.tolist())


def balanced_subset(data: ImageSet, size: int, seed: int) -> ImageSet:
    """`size` samples, in the order of the data; chosen by `seed`.

    Each class has the same number of them, give or take one. Raises ValueError if the data, or a
    class, has too few.
    """
    if not 1 <= size <= len(data):
        raise ValueError(f"subset={size} must be from 1 to the {len(data)} images of the data")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(data)))
    groups = _by_class(data.labels, order)
    chosen = []
    for i, group in enumerate(groups):
        count = size // len(groups) + (i < size % len(groups))
        if count > len(group):
            raise ValueError(
                f"subset={size} wants {count} images of each class, and one has {len(group)}"
            )
        chosen.append(group[:count])
    return data.select(torch.cat(chosen).sort().values)


def choose_some(data: ImageSet, most: int, seed: int) -> ImageSet:
    """At most `most` of the images, chosen by `seed` whatever their classes, in the order of the data."""
    if len(data) <= most:
        return data
    generator = torch.Generator().manual_seed(seed)
    return data.select(torch.randperm(len(data), generator=generator)[:most].sort().values)


def named_subset(data: ImageSet, path: Path) -> ImageSet:
    """The images whose files are named in the list at `path`, one file name a line.

    SimCLR's lists of 1 and 10 percent of ImageNet are such. Names are compared without folders, as
    those lists have none, and in either Unicode form.

    Raises ValueError for images without file names, and for a list that cannot be read, is empty, or
    names files that are missing or occur more than once.
    """
    try:
        lines = path.expanduser().read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"train_list={str(path)!r} cannot be read ({error})") from error
    wanted = {compose(Path(line.strip()).name) for line in lines if line.strip()}
    if not wanted:
        raise ValueError(f"train_list={str(path)!r} names no files")
    names = data.file_names()
    if names is None:
        raise ValueError(
            f"train_list={str(path)!r} needs images with file names: --data folder (with --loader "
            "files if they are small), or a beton that was written from a folder"
        )
    names = [compose(name) for name in names]
    chosen = [i for i, name in enumerate(names) if name in wanted]
    missing = sorted(wanted.difference(names[i] for i in chosen))
    if missing:
        raise ValueError(
            f"train_list={str(path)!r} names {len(missing)} files that the training images do not "
            f"have, {', '.join(missing[:3])} among them"
        )
    if len(chosen) > len(wanted):
        raise ValueError(
            f"train_list={str(path)!r} names {len(wanted)} files, but {len(chosen)} training images "
            "bear these names; names without folders must be unique"
        )
    return data.select(torch.tensor(chosen))


def hold_out(data: ImageSet, share: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """(images to train on, images held out), each in the order of the data.

    Held-out images serve to choose by, so that nothing is chosen on test images.

    Args:
        data: labelled images.
        share: of each class that is held out, rounded to whole images; above 0 and below 1.
        seed: of the choice.

    Raises ValueError if that leaves nothing on one side.
    """
    generator = np.random.default_rng((seed, 1))  # not the numbers that choose a subset
    order = torch.from_numpy(generator.permutation(len(data)))
    parts = [group[: round(share * len(group))] for group in _by_class(data.labels, order)]
    chosen = torch.cat(parts).sort().values
    if len(chosen) in (0, len(data)):
        raise ValueError(
            f"validation={share} holds out {len(chosen)} of {len(data)} images; choose a share that "
            "leaves some on both sides"
        )
    rest = torch.ones(len(data), dtype=torch.bool)
    rest[chosen] = False
    return data.select(rest.nonzero().squeeze(1)), data.select(chosen)
