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

from sslortho.runs.runner import launcher

SCRIPTS = {
    "PretrainOptions": "pretrain.py",
    "SupervisedOptions": "supervised.py",
    "LinearEvalOptions": "linear_eval.py",
    "KnnEvalOptions": "knn_eval.py",
}
"""Kind of a run, as its config.yaml says in its first line, to the script that makes such."""

WEIGHTS = ("backbone.safetensors", "classifier.safetensors")

CLOCK = frozenset({"images_per_second", "seconds_this_session"})
"""What no two runs have in common."""

GPU_LAUNCHER = (
    "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--main_process_port", "0",
    "--mixed_precision", "no", "--dynamo_backend", "no", "--num_processes",
)  # fmt: skip
"""With all that a user's default configuration of Accelerate could change; precision is the script's."""

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of a number to an integer that takes as many."""


@dataclass(frozen=True)
class FinishedRun:
    """What a run folder says of a run that came to its end."""

    folder: Path
    kind: str
    summary: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """Ranks, threads, device, ...: see `train.provenance`."""
        return self.summary["settings"]


def read_finished(folder: Path) -> FinishedRun:
    """A finished run. Raises ValueError for a folder that holds none, or one of an older version."""
    config, summary = folder / "config.yaml", folder / "summary.json"
    if not folder.is_dir():
        raise ValueError(f"run={str(folder)!r} is no folder; give the folder of a finished run")
    if not config.is_file():
        raise ValueError(f"run={str(folder)!r} holds no config.yaml; give the folder of a run")
    if not summary.is_file():
        raise ValueError(f"run={str(folder)!r} is not finished; resume it by its own command first")
    kind = config.read_text().split("\n", 1)[0].removeprefix("# ")
    if kind not in SCRIPTS:
        raise ValueError(
            f"run={str(folder)!r} is of an unknown kind ({kind[:40]!r}); known are those of "
            + ", ".join(SCRIPTS.values())
        )
    try:
        content = json.loads(summary.read_text())
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{summary} is broken; delete it, and resume the run by its own command")
    if "settings" not in content:
        raise ValueError(
            f"run={str(folder)!r} was made by an older version, which did not write down how many "
            f"ranks and threads it had; run its command by hand: {content.get('command', '')}"
        )
    return FinishedRun(folder, kind, content)


def build_options(run: FinishedRun, out: Path) -> list[str]:
    """The run's options and threads, for another folder."""
    config, threads = str(run.folder.resolve() / "config.yaml"), str(run.settings["threads"])
    return ["--config", config, "--threads", threads, "--out", str(out.resolve())]


def build_command(run: FinishedRun, scripts: Path, out: Path) -> list[str]:
    """The run's script with its options, ranks (all on this machine) and threads, for another folder."""
    ranks = run.settings["ranks"]
    on_gpus = ranks > 1 and run.settings["device"] == "cuda"
    launch = [*GPU_LAUNCHER, str(ranks)] if on_gpus else launcher(ranks)
    return [sys.executable, *launch, str(scripts / SCRIPTS[run.kind]), *build_options(run, out)]


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
            shared = [key for key in then if name == "versions" or key in today]
            added = [key for key in today if key not in then]
            pairs = [(f"{name}.{k}", then.get(k), today.get(k)) for k in (*shared, *added)]
        else:
            pairs = [(name, then, today)] if name in now else []
        lines += [f"{what}: {old} then, {new} now" for what, old, new in pairs if old != new]
    return lines


@dataclass(frozen=True)
class Comparison:
    """One thing that two runs have."""

    what: str
    numbers: int
    """Of the run that has more of them."""
    different: int
    """Numbers that are not the same bits; missing ones count."""
    largest: float
    """Largest difference, as a share of the largest number beside it; inf if something is missing."""

    def passes(self, tolerance: float) -> bool:
        """Whether all numbers are the same bits or, for a tolerance above 0, as near as that."""
        return not self.different or (tolerance > 0 and self.largest <= tolerance)


def _same_bits(first: Tensor, second: Tensor) -> Tensor:
    """bool, of the shape of both, which have one dtype."""
    if first.is_floating_point():
        whole = INTEGERS[first.element_size()]
        return first.contiguous().view(whole) == second.contiguous().view(whole)
    return first == second


def largest_difference(first: Tensor, second: Tensor) -> float:
    """Of two tensors of one shape, as a share of the largest finite number of both.

    inf where one has a number that is not finite, and the other another there.
    """
    ours, theirs = first.double(), second.double()
    equal = (ours == theirs) | (ours.isnan() & theirs.isnan())
    if equal.all():
        return 0.0
    gaps = (ours - theirs)[~equal].abs()
    if not gaps.isfinite().all():
        return math.inf
    both = torch.cat([ours.flatten(), theirs.flatten()])
    return float(gaps.max() / both[both.isfinite()].abs().max())


def compare_tensors(what: str, pairs: Iterable[tuple[Tensor | None, Tensor | None]]) -> Comparison:
    """Tensors of two runs, pair by pair; None for one that a run lacks."""
    numbers = different = 0
    largest = 0.0
    for first, second in pairs:
        sizes = [0 if tensor is None else tensor.numel() for tensor in (first, second)]
        numbers += max(sizes)
        if first is None or second is None or first.shape != second.shape:
            different, largest = different + max(sizes), math.inf
            continue
        if first.dtype == second.dtype:
            unlike = int((~_same_bits(first, second)).sum())
        else:
            unlike = first.numel()
        different += unlike
        if unlike:
            largest = max(largest, largest_difference(first, second))
    return Comparison(what, numbers, different, largest)


def _aligned(
    first: dict[str, Tensor], second: dict[str, Tensor]
) -> list[tuple[Tensor | None, Tensor | None]]:
    return [(first.get(name), second.get(name)) for name in {**first, **second}]


def _numbers(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of a record that no clock has told; null is NaN."""
    return {
        name: math.nan if value is None else float(value)
        for name, value in record.items()
        if name not in CLOCK and (value is None or isinstance(value, (int, float)))
    }


def _columns(path: Path) -> dict[str, Tensor]:
    """Of metrics.jsonl: every field with its numbers, in their order.

    Records with other fields are other columns, so that a value in another record is seen.
    """
    columns: dict[tuple[str, str], list[float]] = {}
    if path.exists():
        with path.open(encoding="utf-8") as file:
            for line in file:
                record = _numbers(json.loads(line))
                fields = ",".join(sorted(record))
                for name, value in record.items():
                    columns.setdefault((name, fields), []).append(value)
    return {
        " of ".join(key): torch.tensor(values, dtype=torch.float64)
        for key, values in columns.items()
    }


def _figures(path: Path) -> dict[str, Tensor]:
    numbers = _numbers(json.loads(path.read_text())) if path.exists() else {}
    return {name: torch.tensor([value], dtype=torch.float64) for name, value in numbers.items()}


def _weights(path: Path) -> dict[str, Tensor]:
    return load_file(path) if path.exists() else {}


def compare_finished(first: Path, second: Path) -> list[Comparison]:
    """Weights, records and figures of two finished runs; what neither has is left out."""
    kinds = [(name, _weights) for name in WEIGHTS]
    kinds += [("metrics.jsonl", _columns), ("summary.json", _figures)]
    return [
        compare_tensors(name, _aligned(read(first / name), read(second / name)))
        for name, read in kinds
        if (first / name).exists() or (second / name).exists()
    ]
