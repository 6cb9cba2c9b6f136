"""The names of the files that a .beton was written from, in a list beside it (`train.beton.names`)."""

from collections.abc import Iterable
from pathlib import Path

from sslortho.atomic import atomic_file


def names_path(path: Path) -> Path:
    """Where the names of the files in a .beton lie."""
    return path.with_name(path.name + ".names")


def write_names(path: Path, files: Iterable[str]) -> None:
    """Write the names of these files, without folders, one a line, beside the beton at `path`."""
    text = "".join(f"{Path(file).name}\n" for file in files)
    with atomic_file(names_path(path)) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def read_names(path: Path, count: int) -> list[str]:
    """The names of the files in the beton at `path`, which holds `count` images.

    Raises ValueError where there is no list, or one of another beton.
    """
    remedy = "write both again from the folder with scripts/write_beton.py"
    try:
        names = names_path(path).read_text("utf-8", "surrogateescape").split("\n")[:-1]
    except OSError as error:
        raise ValueError(
            f"the names of the images in {path} are not known: there is no {names_path(path).name} "
            f"beside it; {remedy}"
        ) from error
    if len(names) != count:
        raise ValueError(
            f"{names_path(path)} names {len(names)} images, {path} holds {count}; {remedy}"
        )
    return names
