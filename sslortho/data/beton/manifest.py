"""Files beside a .beton: its manifest (`train.beton.json`) and its images' file names (`.names`)."""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sslortho.atomic import atomic_file
from sslortho.version import __version__


def manifest_path(path: Path) -> Path:
    """Path of the manifest of the beton at `path`."""
    return path.with_name(path.name + ".json")


def names_path(path: Path) -> Path:
    """Path of the list of file names of the beton at `path`."""
    return path.with_name(path.name + ".names")


def write_manifest(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Write `content`, with version and date, as the manifest of the beton at `path`; returns it."""
    manifest = {
        **content,
        "sslortho": __version__,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    with atomic_file(manifest_path(path)) as file:
        file.write((json.dumps(manifest, indent=2) + "\n").encode())
    return manifest


def read_classes(path: Path, count: int) -> tuple[str, ...]:
    """Names of the classes of the beton at `path`, which holds `count` images.

    Empty without a manifest, as for a beton that FFCV wrote. Raises ValueError for a manifest that
    cannot be read or belongs to another file.
    """
    manifest = manifest_path(path)
    if not manifest.is_file():
        return ()
    try:
        content = json.loads(manifest.read_text())
        classes, said = tuple(content["classes"]), content["count"]
        named = isinstance(content["classes"], list) and all(isinstance(c, str) for c in classes)
        if not named:
            raise TypeError("classes must be a list of names")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{manifest} is not the manifest of a beton ({type(error).__name__}: {error}); remove it, "
            "or write both again with sslortho write_beton"
        ) from error
    if said != count:
        raise ValueError(
            f"{manifest} is of a beton of {said} images, {path} has {count}; remove it, or write both "
            "again with sslortho write_beton"
        )
    return classes


def read_source_hash(path: Path) -> str | None:
    """Hash of the images and labels that `write_beton` read for the beton at `path`; None if not known."""
    try:
        found = json.loads(manifest_path(path).read_text())["source_sha256"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def write_names(path: Path, files: Iterable[str]) -> None:
    """Write the names of the images' files, without folders, one a line, beside the beton at `path`.

    The list has no way to write a line's end in a name, which becomes a space.
    """
    text = "".join(f"{Path(file).name.replace(chr(10), ' ')}\n" for file in files)
    with atomic_file(names_path(path)) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def read_names(path: Path, count: int) -> list[str]:
    """File names of the images in the beton at `path`, which holds `count` images.

    Raises ValueError if there is no list, or it belongs to another beton.
    """
    remedy = "write both again from the folder with sslortho write_beton"
    try:
        # not read_text, which ends lines at \r too
        names = names_path(path).read_bytes().decode("utf-8", "surrogateescape").split("\n")[:-1]
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
