"""Experiments from files: the YAML of `configs/paper/`."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from sslortho.options import nearest
from sslortho.paper.grid import Cell, Experiment
from sslortho.paper.grid_parts import (
    check_keys,
    check_names,
    read_plot,
    read_reach,
    read_search,
    read_table,
)
from sslortho.recipes.run_options import RUN_OPTIONS

CHOSEN_AT_START = frozenset({"seed", "out", "data", "data_dir", "subset"})
"""Options that runs get when they are started; a cell must not have them."""


BOOL = "tag:yaml.org,2002:bool"


class _NoDuplicates(yaml.SafeLoader):
    """YAML loader that refuses a key given twice, where PyYAML keeps the last in silence.

    As in YAML 1.2, and in the files of `--config`, `no` and `on` are words: `mixed_precision: no`.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in found if tag != BOOL]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in mapping:
                line = key_node.start_mark.line + 1
                raise ValueError(f"line {line}: {key!r} is there twice; remove one of them")
            mapping[key] = self.construct_object(value_node, deep=deep)
        return mapping


_NoDuplicates.add_implicit_resolver(BOOL, re.compile("true|false"), list("tf"))


def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _NoDuplicates)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping of names to values")
    return content


def _read_axis(
    where: str, axis: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Labels and options of the rows or columns, by key."""
    labels, options = {}, {}
    for key, entry in axis.items():
        if not re.fullmatch(r"[a-z0-9_.]+", str(key)):
            raise ValueError(
                f"{where}: key {key!r} must be of lower-case letters, digits, dots and underscores"
            )
        if not isinstance(entry, dict) or not isinstance(entry.get("label"), str):
            raise ValueError(
                f"{where}, {key}: must be a mapping with a label, and options beside it"
            )
        labels[str(key)] = entry["label"]
        options[str(key)] = {name: value for name, value in entry.items() if name != "label"}
    return labels, options


def _resolve(where: str, value: Any, options: Mapping[str, Any]) -> Any:
    """Value of an option, with $NAME replaced by the value of option NAME."""
    if isinstance(value, list):
        return [_resolve(where, item, options) for item in value]
    if not isinstance(value, str) or not value.startswith("$"):
        return value
    if value[1:] not in options:
        raise ValueError(f"{where}: {value} names no option{nearest(value[1:], options)}")
    return options[value[1:]]


def _merge(
    where: str, base: Mapping[str, Any], row: Mapping[str, Any], column: Mapping[str, Any]
) -> dict[str, Any]:
    """Options of a cell: the column's override the row's, these the base's; null removes one."""
    below = {**base, **row}
    merged = {**below, **{name: _resolve(where, v, below) for name, v in column.items()}}
    return {name: value for name, value in merged.items() if value is not None}


def _read_cells(path: Path, content: Mapping[str, Any]) -> tuple[Cell, ...]:
    base = content.get("options", {})
    if shared := content.get("options_from"):
        base = {**_load(path.parent / shared), **base}
    _, rows = _read_axis(f"{path}: rows", content["rows"])
    _, columns = _read_axis(f"{path}: columns", content["columns"])
    cells = []
    for row, options in rows.items():
        chosen = options.pop("columns", list(columns))
        check_names(f"{path}: rows, {row}: columns", chosen, columns, "column")
        for column in chosen:
            merged = _merge(f"{path}: {row}-{column}", base, options, columns[column])
            cells.append(Cell(row, column, merged))
    left_out = content.get("leave_out", [])
    check_names(f"{path}: leave_out", left_out, [cell.name for cell in cells], "cell")
    for cell in cells:
        for name in CHOSEN_AT_START & set(cell.options):
            raise ValueError(f"{path}: {name} is not an option of a cell; runs get it when started")
    return tuple(cell for cell in cells if cell.name not in left_out)


def _check_distinct(where: str, key: str, values: Iterable[str]) -> None:
    """Raise ValueError for two values that would be written to one file."""
    for value, count in Counter(values).items():
        if count > 1:
            raise ValueError(f"{where}: {count} have {key}={value!r}, which names a file; keep one")


KEYS = ("title", "command", "script", "data", "seeds", "options_from", "options", "rows", "columns",
        "leave_out", "search", "reach", "tables", "plots", "notes")  # fmt: skip


def _read_command(path: Path, content: Mapping[str, Any]) -> str:
    if "command" in content and "script" in content:
        raise ValueError(f"{path}: give command, without script, its older form")
    command = str(content.get("command", content.get("script", "supervised"))).removesuffix(".py")
    if command not in RUN_OPTIONS:
        raise ValueError(
            f"{path}: command={command!r} must be one of {', '.join(RUN_OPTIONS)}"
            f"{nearest(command, RUN_OPTIONS)}"
        )
    return command


def read_experiment(path: Path) -> Experiment:
    """Read an experiment from a file such as configs/paper/table3.yaml, with the keys of KEYS.

    Options of a cell come from `options_from` (a file of options, beside this one), `options`, its row
    and its column; later ones override earlier ones. null removes an option; $NAME in a column is the
    value that NAME has without the column. Rows and columns have a `label`; a row may list the `columns`
    that it has; cells of `leave_out` are not run. A row of a table's `paper` has a figure for each
    column, as `parse_figure` reads it, or null. A plot shows the cells in its `rows` and `columns`, by
    default all. `command` is that of `sslortho`; files of older versions name its script (`script:
    supervised.py`). With `search` the rate of each cell is tuned first; `reach` names the column whose
    final accuracy the others are timed to.

    Raises ValueError that names the file, the place in it and the mistake.
    """
    content = _load(path)
    check_keys(str(path), content, KEYS, "title rows columns")
    seeds = content.get("seeds", 1)
    if not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"{path}: seeds={seeds!r} must be a whole number from 1")
    cells = _read_cells(path, content)
    rows, _ = _read_axis(f"{path}: rows", content["rows"])
    columns, _ = _read_axis(f"{path}: columns", content["columns"])
    tables = [read_table(path, table, list(columns), cells) for table in content.get("tables", [])]
    plots = [read_plot(path, plot, cells) for plot in content.get("plots", [])]
    _check_distinct(f"{path}: tables", "figure", (table.figure for table in tables))
    _check_distinct(f"{path}: plots", "name", (plot.name for plot in plots))
    return Experiment(
        name=path.stem,
        title=content["title"],
        command=_read_command(path, content),
        seeds=seeds,
        rows=rows,
        columns=columns,
        cells=cells,
        tables=tuple(tables),
        plots=tuple(plots),
        notes=tuple(content.get("notes", [])),
        data=content.get("data", "cifar10"),
        search=read_search(path, content, cells),
        reach=read_reach(path, content.get("reach"), list(columns)),
    )
