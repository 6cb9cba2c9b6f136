"""Files below a folder, reached through no symbolic link that leads out of the data set."""

import os
from collections.abc import Iterator
from pathlib import Path


class Links:
    """Which symbolic links in a data set may be followed: those that stay in it, or all."""

    def __init__(self, data_dir: Path, follow: bool) -> None:
        self.root = os.path.realpath(data_dir)
        self.follow = follow

    def check(self, path: str) -> str:
        """Where a link leads. ValueError if nowhere, or out of the data set."""
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
        """The same of a folder, if it is a link."""
        if path.is_symlink():
            self.check(str(path))


def _visible(folder: str | Path) -> list[os.DirEntry[str]]:
    """What a folder holds but for hidden names, sorted."""
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)


def list_folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, and links to such, sorted; hidden ones do not count."""
    return [entry.name for entry in _visible(folder) if entry.is_dir()]


def list_files(folder: Path) -> list[str]:
    """Names of the regular files in a folder, and links to such, sorted; hidden ones do not count."""
    return [entry.name for entry in _visible(folder) if entry.is_file()]


def walk_files(folder: Path, links: Links) -> Iterator[str]:
    """Paths of the files below a folder, sorted, its own before those of folders in it.

    Hidden files and folders do not count. Kinds are those that listing a folder tells: a million files
    are not looked at one by one.

    Raises ValueError for a link that is not followed, one to a folder that it lies in, and a pipe,
    socket or device, which might never end.
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
                    f"{entry.path} is no regular file, but a pipe or device; remove it"
                )
        waiting += reversed(folders)
