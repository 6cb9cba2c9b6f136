"""A run folder's config.yaml: written, and compared with the options of whoever comes to resume."""

import dataclasses
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

MAY_CHANGE = frozenset(
    {
        "out",
        "workers",
        "log_every",
        "log_gradients",
        "checkpoint_every",
        "keep_last",
        "max_bad_steps",
        "trackers",
        "pictures",
        "debug",
    }
)
"""Options that a resumed run may be given anew, since its weights do not depend on them."""


def to_yaml(config: Any) -> str:
    """A configuration as the YAML that `--config` reads."""
    return yaml.safe_dump(asdict(config), sort_keys=False)


def check_same_run(config: Any, path: Path) -> None:
    """Raise ValueError if a run folder's config.yaml is of another run than `config` describes."""
    if not path.exists():
        return
    stored = yaml.safe_load(path.read_text())
    ours = asdict(config)
    known = {f.name for f in dataclasses.fields(config)}
    if unknown := set(stored) - known:
        warnings.warn(f"{path} has unknown options: {', '.join(sorted(unknown))}", stacklevel=2)
    different = [
        f"{name} ({stored[name]!r} there, {ours[name]!r} here)"
        for name in stored
        if name in known - MAY_CHANGE and stored[name] != ours[name]
    ]
    if different:
        raise ValueError(
            f"{path.parent} holds a run with other options: {', '.join(different)}; "
            "give another --out, or the same options to resume it"
        )
