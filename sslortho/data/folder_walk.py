"""Files below a folder; symbolic links that lead out of the data set are refused."""

import os
from collections.abc import Iterator
from pathlib import Path

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif"}

MOST_LOOKED_AT = 10_000
"""Entries of a folder and those in it that `holds_images` looks at: a folder may hold millions of labels."""

SYSTEM_NAMES = {
    # Windows
    "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler", "system volume information",
    # macOS: archives of the Finder, and icons of folders
    "__macosx", "icon\r",
    # Linux
    "lost+found",
    # network drives: Synology, QNAP
    "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@tmp",
}  # fmt: skip
"""Names, in small letters, of files and folders that systems add of themselves; others begin with a
point, such as .DS_Store and ._x.jpg (macOS), .Trash-1000, .ipynb_checkpoints, .git."""


class Links:
    """Rule for symbolic links in a data set: follow those that stay in it, or all."""

    def __init__(self, data_dir: Path, follow: bool) -> None:
        self.root = os.path.realpath(data_dir)
        self.follow = follow

    def check(self, path: str) -> str:
        """Real path of a link's target. Raises ValueError if it is missing, or outside of the data set."""
        target = os.path.realpath(path)
        if not Path(target).exists():
            raise ValueError(f"{path} is a link to {target}, which does not exist; remove it")
        inside = os.path.commonpath([self.root, target]) == self.root
        if not inside and not self.follow:
            raise ValueError(
                f"{path} is a link that leads out of {self.root}, to {target}; --follow_links true "
                "follows such links"
            )
        return target

    def check_folder(self, path: Path) -> None:
        """`check` a folder, if it is a link."""
        if path.is_symlink():
            self.check(str(path))


def _visible(folder: str | Path) -> list[os.DirEntry[str]]:
    """Entries of a folder, sorted; those that `is_system_name` tells are left out."""
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not is_system_name(e.name)), key=lambda e: e.name)


def is_system_name(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or made by a system for itself."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def list_folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, and of links to folders, sorted; without hidden ones and a system's."""
    return [entry.name for entry in _visible(folder) if entry.is_dir()]


def list_files(folder: Path) -> list[str]:
    """Names of the files in a folder, and of links to files, sorted; without hidden ones and a system's."""
    return [entry.name for entry in _visible(folder) if entry.is_file()]


def is_image_name(name: str) -> bool:
    """Whether a file's name, or path, has the suffix of an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def list_loose_images(folder: Path) -> list[str]:
    """Names of the images in a folder itself, not of those in folders in it."""
    return [name for name in list_files(folder) if is_image_name(name)]


def holds_images(folder: Path) -> bool:
    """Whether an image lies in a folder or below it, as far as its first MOST_LOOKED_AT entries show.

    Run folders are passed over: their pictures are no data. Links in it are not followed.
    """
    looked_at = 0
    for _, folders, files in os.walk(folder):
        if "config.yaml" in files:  # of a run
            folders.clear()
            continue
        if any(is_image_name(name) and not is_system_name(name) for name in files):
            return True
        folders[:] = [name for name in folders if not is_system_name(name)]
        looked_at += len(folders) + len(files)
        if looked_at > MOST_LOOKED_AT:
            return False
    return False


def walk_files(folder: Path, links: Links) -> Iterator[str]:
    """Yield the paths of the files below a folder, sorted, its own before those of folders in it.

    Hidden files and folders, and a system's own, are left out. Listing a folder tells files from
    folders, so a million files need no look-up each.

    Raises ValueError for a link that is not followed, a link to a folder above it, and a pipe, socket
    or device, since reading these might never end.
    """
    real_folder = os.path.realpath(folder)
    waiting = [(str(folder), real_folder, frozenset({real_folder}))]
    while waiting:  # and no recursion: folders may lie deeper in each other than Python's limit
        place, real_place, above = waiting.pop()
        folders: list[tuple[str, str, frozenset[str]]] = []
        for entry in _visible(place):
            if entry.is_symlink():
                target = links.check(entry.path)
            else:
                target = f"{real_place}{os.sep}{entry.name}"
            if entry.is_dir():
                if entry.is_symlink() and target in above:
                    raise ValueError(
                        f"{entry.path} is a link to a folder that it lies in; remove it"
                    )
                folders.append((entry.path, target, above | {target}))
            elif entry.is_file():
                yield entry.path
            else:
                raise ValueError(
                    f"{entry.path} is not a regular file but a pipe or device; remove it"
                )
        waiting += reversed(folders)
