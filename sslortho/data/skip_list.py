"""List of the broken images that a run leaves out: a text file in its folder.

    # skip_broken: null
    # train: 1 broken image is left out
    train/cats/7.jpg	image file is truncated

The first line says with which value of the option the list was made; without it, with true. A path is
relative to the folder of the data; `names.to_line` makes a line of it. An image of a beton is told by the
file's name and its place in it.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from sslortho.atomic import atomic_file
from sslortho.data.names import from_line, to_line

SKIP_LIST, CONFIG = "skipped_images.txt", "config.yaml"
"""Names of the list and of the options in a run folder."""

_FEW, _ALL = "# skip_broken: null", "# skip_broken: true"


def keeps_list(path: Path) -> bool:
    """Whether the list at `path` is that of a run which has begun with it, and so has an order of its images.

    A list that was made with another value of skip_broken than the run's is of a start that was refused.
    """
    if not (path.exists() and has_begun(path)):
        return False
    made_with = path.read_text(encoding="utf-8", errors="replace").split("\n", 1)[0]
    value = made_with if made_with == _FEW else _ALL
    lines = path.with_name(CONFIG).read_text(encoding="utf-8").split("\n")
    return value.removeprefix("# ") in lines


def has_begun(path: Path) -> bool:
    """Whether the run in whose folder a list is, or would be, has begun."""
    return path.with_name(CONFIG).exists()


def write_skip_list(path: Path, broken: Mapping[str, Mapping[str, str]], few: bool = False) -> None:
    """Write the broken images of each split, name to fault. The folder is made if it is missing.

    Args:
        few: they are left out by default, not because skip_broken was given.
    """
    lines = [_FEW] if few else []
    for split, faults in broken.items():
        number = "1 broken image is" if len(faults) == 1 else f"{len(faults)} broken images are"
        lines.append(f"# {split}: {number} left out")
        lines += [f"{to_line(name)}\t{to_line(fault)}" for name, fault in faults.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())


def read_skip_list(path: Path) -> dict[str, dict[str, str]]:
    """Broken images of each split, name to fault. Raises ValueError, naming the file, if it is damaged."""
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); {_REMEDY}") from error
    broken: dict[str, dict[str, str]] = {}
    split = ""
    for number, line in enumerate(lines, 1):
        if head := re.fullmatch(r"# (train|test): .*", line):
            split = head[1]
            broken[split] = {}
        elif number == 1 and line == _FEW:
            continue
        elif line and not (split and "\t" in line):
            raise ValueError(f"line {number} of {path} is no path with its fault; {_REMEDY}")
        elif line:
            name, _, fault = line.partition("\t")
            broken[split][from_line(name)] = from_line(fault)
    return broken


_REMEDY = "remove the file to have it written anew"
