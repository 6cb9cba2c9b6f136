"""Folders and betons of a data set's splits: found by name; those that are not used are named."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from sslortho.data.first_rank import say
from sslortho.data.folder_walk import (
    holds_images,
    list_files,
    list_folders,
    list_loose_images,
)
from sslortho.data.names import join_first, to_line

SHOWN = 5
"""Names that a message gives of a folder's content."""

TRAIN_NAMES = {
    "train",
    "training",
    "trains",
    "trainset",
    "train_set",
    "training_set",
    "train_images",
}
TEST_NAMES = {
    "test", "tests", "testing", "testset", "test_set", "test_images",
    "val", "vals", "valid", "validation", "valset", "val_set", "validation_set", "val_images",
    "eval", "evaluation", "dev", "holdout", "hold_out", "heldout", "held_out",
}  # fmt: skip
"""Names, in small letters and with _ for - and spaces, by which people call a split."""


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")


def find_train_folder(data_dir: Path) -> Path:
    """The folder train/ of a data set. Raises ValueError, with the remedy, if there is none."""
    if not data_dir.is_dir():
        raise ValueError(f"data_dir={str(data_dir)!r} is no folder; give one that holds train/")
    # by its name in the listing: some file systems find Train/ for train/, and others do not
    folders = list_folders(data_dir)
    if "train" in folders or (data_dir / "train").is_dir():
        return data_dir / "train"
    files = list_files(data_dir)
    names = sorted([*folders, *files])
    inside = ", ".join(map(to_line, names[:SHOWN])) or "nothing"
    raise ValueError(
        f"data_dir={str(data_dir)!r} has no folder train/ (it holds {inside}); "
        f"{_advise(data_dir, folders, files)}"
    )


def find_split_folders(folder: Path, as_it_is: bool = False, speaks: bool = True) -> bool:
    """Whether a folder of the user's own has train/, and perhaps test/ or val/ beside it.

    A train/ is one album among others if `as_it_is`, other folders with images lie beside it, none of them by
    the name of a split, and no folders are in it. Otherwise images beside it are not used, with a warning.

    Args:
        folder: of the user.
        as_it_is: other names mean nothing: any folder in it is one of images.
        speaks: say what is taken or not used.

    Raises ValueError if there is no such folder, and for names that look like a split and are none.
    """
    if not folder.is_dir():
        raise ValueError(f"data={str(folder)!r} is no folder; give one that holds images")
    names = list_folders(folder)
    similar = [name for name in names if _plain(name) in TRAIN_NAMES | TEST_NAMES]
    if "train" in names:
        albums = [name for name in names if name not in similar and holds_images(folder / name)]
        alone = len(similar) == 1 and not list_folders(folder / "train")
        is_album = bool(albums) and alone
        if speaks:
            _tell_of_others(folder, albums, is_album, as_it_is)
        return not (is_album and as_it_is)
    if similar and not as_it_is:
        raise ValueError(
            f"{folder} holds {to_line(similar[0])}/, which looks like a part of a data set, and no folder "
            "train/; rename the folder of the training images to train, or say by --labels none (or "
            "folders) that all images are to be trained on"
        )
    return False


def _tell_of_others(folder: Path, albums: Sequence[str], is_album: bool, as_it_is: bool) -> None:
    """Say what lies beside train/: folders with images, and images. `is_album`: train/ may be one of them."""
    others = [f"{to_line(name)}/" for name in albums]
    if is_album and as_it_is:
        say(
            f"{folder}: train/ is taken as one folder among others ({join_first(others)}); to train on it "
            f"alone, give {folder / 'train'}"
        )
        return
    others += map(to_line, list_loose_images(folder))
    if others:
        remedy = "to train on all folders, give --labels none (or folders)"
        warnings.warn(
            f"{folder} holds images beside train/, which are not used: {join_first(others)}; "
            f"{remedy if is_album else 'to train on them too, move them into train/'}",
            stacklevel=4,
        )


def _advise(data_dir: Path, folders: Sequence[str], files: Sequence[str]) -> str:
    """Remedy for a folder without train/."""
    expected = "expected train/<class>/<image>, or train/<image> without labels"
    near = [name for name in folders if _plain(name) in TRAIN_NAMES]
    if near:
        return f"{expected}: rename {near[0]} to train"
    if any(_plain(name) in TEST_NAMES for name in folders):
        return expected
    if folders:
        return f"{expected}: if these are the classes, move them into {data_dir / 'train'}"
    if files:
        return f"{expected}: if these are the images, move them into {data_dir / 'train'}"
    return expected


def find_test_folder(data_dir: Path, names: Sequence[str]) -> Path | None:
    """The folder of the test images: the first of `names` that exists, or None.

    Warns of folders that look like a split and are not used.
    """
    wanted = [data_dir / name for name in names if (data_dir / name).is_dir()]
    present = [data_dir / name for name in list_folders(data_dir)]
    similar = [path for path in present if _plain(path.name) in TEST_NAMES]
    return _choose(data_dir, wanted, similar, " or ".join(f"{name}/" for name in names))


def find_test_beton(data_dir: Path, names: Sequence[str]) -> Path | None:
    """The beton of the test images, in the same way: `names` are without their suffix."""
    files = [data_dir / f"{name}.beton" for name in names]
    present = [data_dir / name for name in list_files(data_dir)] if data_dir.is_dir() else []
    betons = [path for path in present if path.suffix == ".beton"]
    similar = [path for path in betons if _plain(path.stem) in TEST_NAMES]
    wanted = [path for path in files if path.is_file()]
    return _choose(data_dir, wanted, similar, " or ".join(file.name for file in files))


def _choose(
    data_dir: Path, wanted: Sequence[Path], similar: Sequence[Path], names: str
) -> Path | None:
    """The first of `wanted`, after a warning of the `similar` ones that are not used."""
    used = wanted[0] if wanted else None
    others = [path for path in similar if used is None or not path.samefile(used)]
    if used is None and others:
        warnings.warn(
            f"{data_dir} holds {_join(others)}, which is not used: there is no evaluation on test images "
            f"without {names}; rename it to have one",
            stacklevel=4,
        )
    # test/ beside the val/ of ImageNet is usual: it has no labels
    unusual = [path for path in others if path.name != "test" or path in wanted]
    if used is not None and unusual:
        warnings.warn(
            f"{data_dir} holds {_join(unusual)}, which is not used: the test images are those of "
            f"{used.name}",
            stacklevel=4,
        )
    return used


def _join(paths: Sequence[Path]) -> str:
    return ", ".join(to_line(path.name) for path in sorted(paths))
