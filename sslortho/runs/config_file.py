"""config.yaml of a run folder: written, and compared with the options of whoever comes to resume."""

import os
import warnings
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sslortho.options import Options, facts

Some = TypeVar("Some", bound=Options)

HEADLINE = "# sslortho "

OLD_KINDS = {
    "# PretrainConfig": "pretrain",
    "# SupervisedConfig": "supervised",
    "# LinearEvalConfig": "linear_eval",
    "# KnnEvalConfig": "knn_eval",
}
"""First lines that versions up to 0.1 wrote, and the commands that they mean."""


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


def to_yaml(options: Options) -> str:
    """Options as the YAML that `--config` reads, with their command in a comment at the top.

    Those that hold for one start alone (`Facts.once`) have their defaults.
    """
    known = facts(type(options))
    defaults = {f.name: f.default for f in fields(options) if known[f.name].once}  # pyright: ignore[reportArgumentType]
    body = yaml.dump({**options.values(), **defaults}, Dumper=_Dumper, sort_keys=False)
    return f"{HEADLINE}{options.command}\n{body}"


def read_command(text: str) -> str | None:
    """Command that a config.yaml is of, by its first line; None where it has no such line."""
    first = text.split("\n", 1)[0].rstrip()
    if first in OLD_KINDS:
        return OLD_KINDS[first]
    return first.removeprefix(HEADLINE) if first.startswith(HEADLINE) else None


def _has_results(folder: Path) -> bool:
    """Whether there is anything that another run could spoil."""
    return (folder / "summary.json").exists() or any(folder.glob("checkpoints/*"))


def _read(path: Path, text: str, remedy: str) -> dict[str, Any]:
    try:
        return dict(yaml.safe_load(text))
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from error


def check_same_run(options: Options, folder: Path) -> None:
    """Raise ValueError if a folder holds results of another run than `options` describe."""
    path = folder / "config.yaml"
    if not path.exists() or not _has_results(folder):
        return
    text = path.read_text()
    remedy = "give another --out, or the same options to resume it"
    command = read_command(text)
    if command is not None and command != options.command:
        raise ValueError(f"{folder} holds a run of another kind ({command}); {remedy}")
    stored = _read(path, text, remedy)
    ours = yaml.safe_load(to_yaml(options))  # a tuple is a list there
    known = {f.name for f in fields(options)}  # pyright: ignore[reportArgumentType]
    if unknown := set(stored) - known:
        warnings.warn(f"{path} has unknown options: {', '.join(sorted(unknown))}", stacklevel=2)
    different = [
        f"{name} ({stored[name]!r} there, {ours[name]!r} here)"
        for name, fact in facts(type(options)).items()
        if name in stored and not (fact.may_change or fact.by_content)
        if not (fact.fitted and ours[name] is None)
        if _expand(stored[name], fact.path) != ours[name]
    ]
    if different:
        raise ValueError(
            f"{folder} holds a run with other options: {', '.join(different)}; {remedy}"
        )


def keep_fitted(options: Some, folder: Path) -> Some:
    """Options whose fitted ones, where left out, are those of the run that a folder holds.

    So a run goes on as it began, also where a later version, or other data, would choose otherwise. What is
    given must be the same: see `check_same_run`, which comes before.
    """
    path = folder / "config.yaml"
    if not path.exists() or not _has_results(folder):
        return options
    try:
        stored = yaml.safe_load(path.read_text())
    except yaml.YAMLError:
        return options  # `check_same_run` says that it is damaged
    if not isinstance(stored, dict):
        return options
    open_ones = [
        n for n, f in facts(type(options)).items() if f.fitted and getattr(options, n) is None
    ]
    kept = {name: stored[name] for name in open_ones if stored.get(name) is not None}
    return replace(options, **kept)  # pyright: ignore[reportArgumentType]


def _expand(value: Any, path: bool) -> Any:
    """A stored value as it is read today: versions up to 0.1 stored paths unexpanded."""
    return os.path.expanduser(value) if path and isinstance(value, str) else value  # noqa: PTH111
