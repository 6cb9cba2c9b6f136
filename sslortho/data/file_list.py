"""Lists of image files, from Python or from a text file with a path a line."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from sslortho.data.image_files import ImageFiles
from sslortho.data.names import compose, to_line


def list_files(
    paths: Sequence[str | os.PathLike[str]], from_folders: bool = False, upright: bool = True
) -> ImageFiles:
    """Image files in the order of a list.

    Args:
        paths: of the files; a leading ~ is expanded.
        from_folders: each image's label is the name of the folder that it lies in, sorted.
        upright: turn images as their EXIF data say.

    Raises ValueError for an empty list, and for a path that is no file.
    """
    found = [os.path.expanduser(os.fspath(path)) for path in paths]  # noqa: PTH111
    if not found:
        raise ValueError("data=[] is a list of no files; give at least one")
    missing = [path for path in found if not os.path.isfile(path)]  # noqa: PTH113
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(found)} files of the list do not exist, {to_line(missing[0])} first; "
            "remove them from the list, or mend the paths (relative ones begin at the working folder, in a "
            "file .txt at its own)"
        )
    labels, classes = torch.full((len(found),), -1), ()
    if from_folders:
        names = [compose(Path(path).absolute().parent.name) for path in found]
        known = sorted(set(names))
        places = {name: i for i, name in enumerate(known)}
        labels, classes = torch.tensor([places[n] for n in names]), tuple(map(to_line, known))
    return ImageFiles(tuple(found), labels, classes, _common_folder(found), upright)


def _common_folder(paths: Sequence[str]) -> str:
    """Folder that all paths begin with; empty if there is none."""
    try:
        folder = os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120
    except ValueError:  # absolute and relative ones
        return ""
    return folder if all(path.startswith(f"{folder}{os.sep}") for path in paths) else ""


def read_list(path: Path, from_folders: bool = False, upright: bool = True) -> ImageFiles:
    """Image files that a text file names, a path a line, relative to its own folder.

    Empty lines and those that begin with # are left out.

    Raises ValueError if it cannot be read, and as `list_files`.
    """
    try:
        lines = path.read_text("utf-8-sig", "surrogateescape").split("\n")
    except OSError as error:
        raise ValueError(f"data={str(path)!r} cannot be read ({error})") from error
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not names:
        raise ValueError(f"data={str(path)!r} names no image files")
    places = [os.path.expanduser(name) for name in names]  # noqa: PTH111
    return list_files([str(path.parent / place) for place in places], from_folders, upright)
