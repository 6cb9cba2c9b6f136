"""Experiments of the paper by name, from `configs/paper/`."""

import re
from pathlib import Path

from sslortho.options import nearest
from sslortho.paper.grid_file import read_experiment
from sslortho.recipes.configs import configs_folder

PART_OF = {
    "table6": "table2",
    "table7": "table4",
    **dict.fromkeys(("figure2", "figure3", "figure4", "figure5", "figure11"), "table3"),
    "figure6": "imagenet",
    **dict.fromkeys(("figure12", "figure13"), "table2"),
}
"""Tables and figures of the paper that are a part of another experiment."""


def find_experiments() -> dict[str, Path]:
    """Name to file: tables, then figures, each by number, then the others."""
    folder = configs_folder() / "paper"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"), key=_place)}


def _place(path: Path) -> tuple[int, int, str]:
    """Sort key of an experiment's file."""
    kinds = ("table", "figure")
    numbered = re.fullmatch(rf"({'|'.join(kinds)})(\d+)", path.stem)
    if numbered is None:
        return len(kinds), 0, path.stem
    return kinds.index(numbered[1]), int(numbered[2]), path.stem


def list_experiments() -> list[str]:
    """Lines with the name and the title of each experiment."""
    found = find_experiments()
    return [f"{name:16} {read_experiment(path).title}" for name, path in found.items()]


def choose_experiment(name: str) -> Path:
    """File of an experiment. Raises ValueError for an unknown name, with the nearest right one."""
    known = find_experiments()
    if name in PART_OF:
        print(f"{name} is written by {PART_OF[name]}")
        name = PART_OF[name]
    if name not in known:
        raise ValueError(
            f"{name!r} is not an experiment{nearest(name, known)}; they are {', '.join(known)}"
        )
    return known[name]
