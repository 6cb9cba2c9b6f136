"""Comparison of a finished run with the unbroken one: bit by bit, except for times."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

TIMING = {"images_per_second"}
"""Fields of a record that differ from run to run."""


def step_of(path: Path) -> int:
    """The step in a checkpoint's name."""
    return int(path.name.removeprefix("step-").partition("-")[0].removesuffix(".pt"))


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints of a run folder, oldest first."""
    return sorted((folder / "checkpoints").glob("step-*.pt"))


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Records of metrics.jsonl without times. Raises ValueError for a line that is not JSON."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMING} for line in lines]


def find_differences(ours: Any, theirs: Any, where: str = "") -> Iterator[str]:
    """Places where the bits of two trees of dictionaries, sequences, tensors and values differ."""
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        same = ours.dtype == theirs.dtype and ours.shape == theirs.shape
        if not same or ours.contiguous().numpy().tobytes() != theirs.contiguous().numpy().tobytes():
            yield where
    elif isinstance(ours, dict) and isinstance(theirs, dict):
        if list(ours) != list(theirs):
            yield f"{where}: keys"
        else:
            for key, value in ours.items():
                yield from find_differences(value, theirs[key], f"{where}.{key}")
    elif isinstance(ours, (list, tuple)) and isinstance(theirs, (list, tuple)):
        if len(ours) != len(theirs):
            yield f"{where}: {len(ours)} and {len(theirs)} items"
        else:
            for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
                yield from find_differences(a, b, f"{where}[{i}]")
    elif ours != theirs and not (ours != ours and theirs != theirs):  # NaN is NaN
        yield f"{where}: {ours!r} and {theirs!r}"


def compare_trainings(ours: Path, theirs: Path) -> list[str]:
    """Differences between two finished run folders, a line each."""
    found = []
    name = "backbone.safetensors"
    found += find_differences(load_file(ours / name), load_file(theirs / name), name)
    last, reference = list_checkpoints(ours)[-1], list_checkpoints(theirs)[-1]
    if step_of(last) != step_of(reference):
        found.append(f"last checkpoint: step {step_of(last)} and {step_of(reference)}")
    states = [torch.load(path, map_location="cpu", weights_only=True) for path in (last, reference)]
    for part in ("task", "optimizer"):
        found += find_differences(states[0][part], states[1][part], part)
    found += find_differences(read_records(ours), read_records(theirs), "metrics.jsonl")
    partials = [path.name for path in ours.rglob(".*.partial")]
    if partials:
        found.append(f"left behind: {', '.join(partials)}")
    return found


def compare_betons(ours: Path, theirs: Path) -> list[str]:
    """Differences between two folders that write_beton.py filled, a line each."""
    found = []
    for name in ("train.beton", "train.beton.names"):
        if (ours / name).exists() != (theirs / name).exists():
            found.append(f"{name}: not in both")
        elif (ours / name).exists() and file_digest(ours / name) != file_digest(theirs / name):
            found.append(f"{name}: bytes differ")
    return found


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
