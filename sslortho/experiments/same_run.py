"""A finished run once more: its command, and the two compared number by number."""

import json
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

SCRIPTS = {
    "PretrainConfig": "pretrain.py",
    "SupervisedConfig": "supervised.py",
    "LinearEvalConfig": "linear_eval.py",
    "KnnEvalConfig": "knn_eval.py",
}
"""Kind of a run, as its config.yaml says in its first line, to the script that makes such."""

WEIGHTS = ("backbone.safetensors", "classifier.safetensors")

CLOCK = frozenset({"images_per_second", "seconds_this_session"})
"""What no two runs have in common."""


@dataclass(frozen=True)
class FinishedRun:
    """What a run folder says of a run that came to its end."""

    folder: Path
    script: str
    summary: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """Ranks, threads, device, ...: see `train.provenance`."""
        return self.summary["settings"]


def read_finished(folder: Path) -> FinishedRun:
    """A finished run. Raises ValueError for a folder that holds none, or one of an older version."""
    config, summary = folder / "config.yaml", folder / "summary.json"
    if not config.is_file():
        raise ValueError(f"run={str(folder)!r} holds no config.yaml; give the folder of a run")
    if not summary.is_file():
        raise ValueError(f"run={str(folder)!r} is not finished; resume it by its own command first")
    kind = config.read_text().split("\n", 1)[0].removeprefix("# ")
    if kind not in SCRIPTS:
        raise ValueError(f"run={str(folder)!r} is of an unknown kind ({kind[:40]!r})")
    content = json.loads(summary.read_text())
    if "settings" not in content:
        raise ValueError(
            f"run={str(folder)!r} was made by an older version, which did not write down how many "
            "ranks and threads it had; run its command by hand: " + content.get("command", "")
        )
    return FinishedRun(folder, SCRIPTS[kind], content)


def build_command(run: FinishedRun, scripts: Path, out: Path) -> list[str]:
    """The run's script with its options, ranks and threads, for another folder."""
    settings, script = run.settings, str(scripts / run.script)
    launcher: list[str] = []
    if settings["ranks"] > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
        launcher.append(str(settings["ranks"] // settings["machines"]))
    threads = ["--threads", str(settings["threads"])] if settings["device"] == "cpu" else []
    config = str(run.folder.resolve() / "config.yaml")
    out_option = ["--out", str(out.resolve())]
    return [sys.executable, *launcher, script, "--config", config, *threads, *out_option]


def describe_changes(run: FinishedRun, now: dict[str, Any]) -> list[str]:
    """How versions, commit, machine and settings of now differ from the run's; one a line.

    Args:
        run: that was made then.
        now: the same keys as in its summary, as far as known.
    """
    lines = []
    for name in ("git_commit", "host", "versions", "settings"):
        then, today = run.summary.get(name), now.get(name)
        if isinstance(then, dict) and isinstance(today, dict):
            keys = [key for key in then if key in today and then[key] != today[key]]
            lines += [f"{name}.{key}: {then[key]} then, {today[key]} now" for key in keys]
        elif name in now and then != today:
            lines.append(f"{name}: {then} then, {today} now")
    return lines


@dataclass(frozen=True)
class Comparison:
    """One thing that two runs have."""

    what: str
    numbers: int
    different: int
    """Numbers that are not the same bits; missing ones count."""
    largest: float
    """Largest difference, as a share of the largest number beside it; inf if something is missing."""


def _compare_pairs(what: str, pairs: Iterable[tuple[Tensor, Tensor]]) -> Comparison:
    numbers = different = 0
    largest = 0.0
    for first, second in pairs:
        numbers += first.numel()
        if first.shape != second.shape:
            different, largest = different + max(first.numel(), second.numel()), math.inf
            continue
        # equal bits, and NaN is NaN
        same = (first == second) | (first.isnan() & second.isnan())
        if not same.all():
            different += int((~same).sum())
            gap = float((first - second).abs().nan_to_num(math.inf, math.inf)[~same].max())
            size = float(first.abs().nan_to_num(0.0, 0.0).max())
            largest = max(largest, gap / max(size, 1e-30) if gap < math.inf else gap)
    return Comparison(what, numbers, different, largest)


def _aligned(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    none = torch.empty(0, dtype=torch.float64)
    names = {**first, **second}
    return [(first.get(n, none).double(), second.get(n, none).double()) for n in names]


def _numbers(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of a record that no clock has told; null is NaN."""
    return {
        name: math.nan if value is None else float(value)
        for name, value in record.items()
        if name not in CLOCK and (value is None or isinstance(value, (int, float)))
    }


def _columns(path: Path) -> dict[str, Tensor]:
    """Of metrics.jsonl: every name with its numbers, in their order."""
    columns: dict[str, list[float]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        for name, value in _numbers(json.loads(line)).items():
            columns.setdefault(name, []).append(value)
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in columns.items()}


def _figures(path: Path) -> dict[str, Tensor]:
    numbers = _numbers(json.loads(path.read_text()))
    return {name: torch.tensor([value], dtype=torch.float64) for name, value in numbers.items()}


def compare_finished(first: Path, second: Path) -> list[Comparison]:
    """Weights, records and figures of two finished runs."""
    found = []
    for name in WEIGHTS:
        if (first / name).exists() or (second / name).exists():
            weights = [load_file(f / name) if (f / name).exists() else {} for f in (first, second)]
            found.append(_compare_pairs(name, _aligned(*weights)))
    for name, read in (("metrics.jsonl", _columns), ("summary.json", _figures)):
        if (first / name).exists():
            found.append(_compare_pairs(name, _aligned(read(first / name), read(second / name))))
    return found
