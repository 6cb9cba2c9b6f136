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
        "follow_links",
        "rank_timeout",
        "shard",
        "log_every",
        "log_gradients",
        "log_layers",
        "checkpoint_every",
        "keep_last",
        "max_bad_steps",
        "trackers",
        "pictures",
        "debug",
    }
)
"""Options that a resumed run may be given anew, since its weights do not depend on them."""


class _Dumper(yaml.SafeDumper):
    """Quotes text that some reader of YAML takes for a number: PyYAML's writer does not quote 1e100."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        float(text)
        style = "'"
    except ValueError:
        style = None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _represent_text)


def _headline(config: Any) -> str:
    return f"# {type(config).__name__}"


def to_yaml(config: Any) -> str:
    """A configuration as the YAML that `--config` reads, with its kind in a comment at the top."""
    return f"{_headline(config)}\n{yaml.dump(asdict(config), Dumper=_Dumper, sort_keys=False)}"


def _has_results(folder: Path) -> bool:
    """Whether there is anything that another run could spoil."""
    return (folder / "summary.json").exists() or any(folder.glob("checkpoints/*"))


def fixed_options(config: Any) -> dict[str, Any]:
    """The options that the weights of a run depend on."""
    return {name: value for name, value in asdict(config).items() if name not in MAY_CHANGE}


def check_same_run(config: Any, folder: Path) -> None:
    """Raise ValueError if a folder holds results of another run than `config` describes."""
    path = folder / "config.yaml"
    if not path.exists() or not _has_results(folder):
        return
    text = path.read_text()
    remedy = "give another --out, or the same options to resume it"
    first = text.split("\n", 1)[0]
    if first.startswith("# ") and first != _headline(config):
        raise ValueError(f"{folder} holds a run of another kind ({first[2:]}); {remedy}")
    try:
        stored = dict(yaml.safe_load(text))
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from error
    ours = yaml.safe_load(to_yaml(config))  # a tuple is a list there
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
            f"{folder} holds a run with other options: {', '.join(different)}; {remedy}"
        )
