"""The images that a list names, as SimCLR's lists of one and ten percent of ImageNet do."""

from pathlib import Path

import torch

from sslortho.data.ffcv.beton import read_beton
from sslortho.data.ffcv.names import read_names
from sslortho.data.image_sets import ImageArray, ImageFiles, ImageSet


def file_names(data: ImageSet) -> list[str]:
    """The name, without folders, of each image's file.

    Raises ValueError where there is none: for images in memory, and betons without a list of names.
    """
    if isinstance(data, ImageArray):
        raise ValueError(
            "train_list needs images with file names: --data folder (with --loader files if they are "
            "small), or a beton that was written from a folder"
        )
    if isinstance(data, ImageFiles):
        return [Path(path).name for path in data.paths]
    names = read_names(data.path, len(read_beton(data.path)))
    return [names[place] for place in data.places]


def named_subset(data: ImageSet, path: Path) -> ImageSet:
    """The images of `data` whose files are named in the list at `path`, one file name a line.

    Names are compared without folders: SimCLR's lists name the files alone.

    Raises ValueError for a list that cannot be read, is empty, or names files that are not there, or
    more than once.
    """
    try:
        lines = path.expanduser().read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"train_list={str(path)!r} cannot be read ({error})") from error
    wanted = {Path(line.strip()).name for line in lines if line.strip()}
    if not wanted:
        raise ValueError(f"train_list={str(path)!r} names no files")
    names = file_names(data)
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
