"""Identity of an embedding: images, weights and settings that its rows depend on."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sslortho.atomic import atomic_file
from sslortho.augment import EvaluationSpec
from sslortho.evaluate.feature_files import read_about
from sslortho.recipes.backbone import Subject
from sslortho.recipes.embed.options import EmbedOptions
from sslortho.runs.config_file import to_yaml
from sslortho.runs.inputs import Inputs, write_tables
from sslortho.runs.lock import hold_folder, release_folder

ABOUT, TABLES = "about.json", "images.npz"
"""Files of the folder of the rows: where they come from, and names, sizes and labels of the images."""

SETTINGS = ("dim", "dtype", "mixed_precision")
"""Entries beside view and inputs that two runs must agree in to share their rows."""


def about_features(
    options: EmbedOptions, subject: Subject, spec: EvaluationSpec, inputs: Inputs
) -> dict[str, Any]:
    """Where features come from, in plain values: options, view, backbone, identity of the inputs."""
    about = {
        "dim": subject.dim,
        "dtype": options.dtype,
        "mixed_precision": options.mixed_precision,
        "view": asdict(spec),
        "backbone": {"name": subject.info.backbone, "stem": subject.info.stem},
        "weights_from": subject.origin,
        "inputs": inputs.state(),
        "options": options.values(),
    }
    return json.loads(json.dumps(about))  # tuples are lists in a file


def _describe_changes(
    stored: Mapping[str, Any], about: Mapping[str, Any], inputs: Inputs, tables: Path
) -> list[str]:
    changes = inputs.find_changes(stored.get("inputs", {}), tables)
    pairs = {name: (stored.get(name), about[name]) for name in SETTINGS}
    then = stored.get("view", {})
    pairs |= {name: (then.get(name), value) for name, value in about["view"].items()}
    return changes + [
        f"{name} is {old} there and {new} here" for name, (old, new) in pairs.items() if old != new
    ]


def find_changes(path: Path, about: Mapping[str, Any], inputs: Inputs) -> list[str]:
    """Differences between a file of features and an embedding of these inputs, in words.

    Raises ValueError for a file that is damaged or of others.
    """
    return _describe_changes(read_about(path), about, inputs, path.with_name(TABLES))


def take_folder(options: EmbedOptions, about: Mapping[str, Any], inputs: Inputs) -> None:
    """Make the folder of the rows, or take up one of the same embedding, and hold it.

    Raises ValueError for one of another embedding, unless it is to be overwritten, and if another process is
    at work there.
    """
    folder = options.work_folder
    hold_folder(folder)
    try:
        stored = _read(folder / ABOUT)
        if stored is not None:
            changes = _describe_changes(stored, about, inputs, folder / TABLES)
            if not changes:
                return
            if not options.overwrite:
                raise ValueError(
                    f"out={options.out!r} was begun with something else ({folder}): {'; '.join(changes)}; "
                    "give another --out, or --overwrite to begin anew"
                )
        _begin(options, about, inputs)
    except BaseException:
        release_folder(folder)
        raise


def drop_unbegun(options: EmbedOptions) -> None:
    """Remove a folder that holds no rows, only a list of broken images that this start has written."""
    if not (options.work_folder / ABOUT).exists():
        shutil.rmtree(options.work_folder, ignore_errors=True)


def _begin(options: EmbedOptions, about: Mapping[str, Any], inputs: Inputs) -> None:
    """Empty the folder but for its lock and what the loading has written, and note what it is of."""
    folder = options.work_folder
    for path in (folder / ABOUT, folder / TABLES, folder / "rows.npy"):
        path.unlink(missing_ok=True)
    for journal in folder.glob("journal-*.txt"):
        journal.unlink()
    write_tables(folder / TABLES, inputs)
    with atomic_file(folder / "config.yaml") as file:  # which `keeps_list` looks for
        file.write(to_yaml(options).encode())
    with atomic_file(folder / ABOUT) as file:
        file.write((json.dumps(about, indent=2) + "\n").encode())


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
