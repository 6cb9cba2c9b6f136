"""A finished run and its repetition: the command that repeats it, and both compared bit by bit."""

import json
import math
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sslortho.runs.config_file import read_command
from sslortho.runs.folder import RunFolder
from sslortho.runs.several.jobs import PROGRAM, TORCHRUN

WEIGHTS = ("backbone.safetensors", "classifier.safetensors")

CLOCK = frozenset({"images_per_second", "time_shares", "peak_memory_gib", "seconds_this_session"})
"""Figures that are never the same in two runs."""

GPU_LAUNCHER = (
    "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--main_process_port", "0",
    "--mixed_precision", "no", "--dynamo_backend", "no", "--num_processes",
)  # fmt: skip
"""Names all that a user's default configuration of Accelerate could change; the command itself chooses
the precision."""

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of a number to the integer type of that size."""


@dataclass(frozen=True)
class FinishedRun:
    """Content of the folder of a finished run."""

    folder: Path
    command: str
    """Command of `sslortho` that made it, such as "pretrain"."""
    summary: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """Ranks, threads, device, ...: see `runs.provenance.settings`."""
        return self.summary["settings"]


def read_finished(folder: Path, commands: Collection[str]) -> FinishedRun:
    """Read a finished run.

    Args:
        folder: of the run.
        commands: those whose runs can be repeated.

    Raises ValueError for a folder without such a run, a broken summary.json, and a run of an older version.
    """
    config = folder / "config.yaml"
    if not folder.is_dir():
        raise ValueError(f"run={str(folder)!r} is not a folder; give the folder of a finished run")
    if not config.is_file():
        raise ValueError(f"run={str(folder)!r} holds no config.yaml; give the folder of a run")
    text = config.read_text()
    command = read_command(text)
    if command is None or command not in commands:
        kind = command or text.split("\n", 1)[0].removeprefix("# ")
        raise ValueError(
            f"run={str(folder)!r} is of an unknown kind ({kind[:40]!r}); known are those of "
            + ", ".join(commands)
        )
    content = RunFolder(folder).load_summary()
    if content is None:
        raise ValueError(f"run={str(folder)!r} is not finished; resume it by its own command first")
    if "settings" not in content:
        raise ValueError(
            f"run={str(folder)!r} was made by an older version, which did not write down how many "
            f"ranks and threads it had; run its command by hand: {content.get('command', '')}"
        )
    return FinishedRun(folder, command, content)


def build_arguments(run: FinishedRun, out: Path) -> list[str]:
    """Arguments of the run's command that repeat it in another folder, on as many threads."""
    config, threads = str(run.folder.resolve() / "config.yaml"), str(run.settings["threads"])
    return ["--config", config, "--threads", threads, "--out", str(out.resolve())]


def build_command_line(run: FinishedRun, out: Path) -> list[str]:
    """Program and arguments that repeat a run in another folder, with all ranks on this machine."""
    ranks = run.settings["ranks"]
    on_gpus = ranks > 1 and run.settings["device"] == "cuda"
    launcher = GPU_LAUNCHER if on_gpus else TORCHRUN
    launch = [*launcher, str(ranks)] if ranks > 1 else []
    return [sys.executable, *launch, *PROGRAM, run.command, *build_arguments(run, out)]


def describe_changes(run: FinishedRun, now: dict[str, Any]) -> list[str]:
    """Lines that say what differs today in versions, commit, machine and settings.

    Args:
        run: made in the past.
        now: today's values by the keys of its summary, as far as they are known.
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


def describe_other_inputs(run: FinishedRun, rerun: Path) -> list[str]:
    """Lines that say which images or weights of a finished rerun are not those of the run.

    None for a run of version 0.1, which did not record them.
    """
    then = run.summary.get("inputs", {})
    now = json.loads((rerun / "summary.json").read_text()).get("inputs", {})
    return [
        f"inputs.{name}: {old} then, {now.get(name)} now"
        for name, old in then.items()
        if now.get(name) != old
    ]


@dataclass(frozen=True)
class BitComparison:
    """Comparison of one file of two runs."""

    what: str
    """Name of the file."""
    numbers: int
    """Numbers in it, in the run that has more."""
    different: int
    """Numbers whose bits differ; missing ones count."""
    largest: float
    """Largest difference, as a share of the largest number of its tensor; inf if one is missing."""

    def passes(self, tolerance: float) -> bool:
        """Whether all numbers are the same bits or, for a tolerance above 0, differ by no more."""
        return not self.different or (tolerance > 0 and self.largest <= tolerance)


def _same_bits(first: Tensor, second: Tensor) -> Tensor:
    """Whether each number has the same bits: bool, of the shape of both. They have one dtype."""
    if first.is_floating_point():
        whole = INTEGERS[first.element_size()]
        return first.contiguous().view(whole) == second.contiguous().view(whole)
    return first == second


def largest_difference(first: Tensor, second: Tensor) -> float:
    """Largest difference of two tensors of one shape, as a share of the largest finite number of both.

    inf if one has a non-finite number where the other has a different one.
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


def compare_tensors(
    what: str, pairs: Iterable[tuple[Tensor | None, Tensor | None]]
) -> BitComparison:
    """Compare tensors of two runs pair by pair; None stands for one that a run lacks."""
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
    return BitComparison(what, numbers, different, largest)


def _aligned(
    first: dict[str, Tensor], second: dict[str, Tensor]
) -> list[tuple[Tensor | None, Tensor | None]]:
    return [(first.get(name), second.get(name)) for name in {**first, **second}]


def _numbers(record: dict[str, Any]) -> dict[str, float]:
    """Numbers of a record, without those that a clock gave, or that say where it was; null is NaN."""
    return {
        name: math.nan if value is None else float(value)
        for name, value in record.items()
        if name not in (*CLOCK, "git_commit") and (value is None or isinstance(value, (int, float)))
    }


def _columns(path: Path) -> dict[str, Tensor]:
    """Fields of metrics.jsonl with their numbers, in order.

    Records with other fields make other columns, so that a value that moved to another record shows.
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


def compare_finished(first: Path, second: Path) -> list[BitComparison]:
    """Compare weights, records and figures of two finished runs; a file that both lack is left out."""
    kinds = [(name, _weights) for name in WEIGHTS]
    kinds += [("metrics.jsonl", _columns), ("summary.json", _figures)]
    return [
        compare_tensors(name, _aligned(read(first / name), read(second / name)))
        for name, read in kinds
        if (first / name).exists() or (second / name).exists()
    ]
