"""Records of the speedrun, one line of JSON each, and the table of them."""

import hashlib
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from json_lines import add_line
from sslortho.runs.provenance import git_commit, machine, versions

OURS = "ours"

PROCESSOR = ("cpu", "cpu_capability", "cores")
"""Facts that must be the same in the machines of one table."""


def add_record(path: Path, record: dict[str, Any]) -> None:
    """Add a line, with the machine, the versions, the commit and the time."""
    about = {
        "machine": machine(),
        "versions": versions(),
        "commit": git_commit(),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    add_line(path, {**record, **about})


def group_records(records: Iterable[dict[str, Any]]) -> dict[tuple[str, float], list[dict]]:
    """Records of each entrant and length; the length is a multiple of ours, ours is 1."""
    groups: dict[tuple[str, float], list[dict]] = defaultdict(list)
    for record in records:
        groups[record["entrant"], record["factor"]].append(record)
    return dict(groups)


def check_same_settings(records: Iterable[dict[str, Any]], settings: dict[str, Any]) -> None:
    """Raise ValueError for records of other settings, or of another processor: a table has one of each.

    The name of a processor may be that of several, so its vector instructions and cores count too.
    """
    here = machine()
    for record in records:
        if record["settings"] != settings:
            raise ValueError(
                f"the record of {record['entrant']} has {record['settings']}, not {settings}; "
                "give another file"
            )
        there = record["machine"]
        if any(there[name] != here[name] for name in PROCESSOR):
            described = (", ".join(str(m[name]) for name in PROCESSOR) for m in (there, here))
            raise ValueError(
                f"the record of {record['entrant']} is of another processor "
                f"({next(described)}; here {next(described)}); give another file"
            )


def check_same_config(records: Iterable[dict[str, Any]], config: Path) -> None:
    """Raise ValueError for records of ours that a configuration with other content has made."""
    digest = digest_config(config)
    for record in records:
        if record["entrant"] == OURS and record.get("config_digest") != digest:
            raise ValueError(
                f"the record of {OURS} with seed {record['seed']} is of another configuration than "
                f"{config}; give another file"
            )


def digest_config(config: Path) -> str:
    """Digest of the options of a configuration file."""
    options = yaml.safe_load(config.read_text())
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:12]


ENOUGH = 3
"""Seeds that an entrant needs at least (rule 4)."""


def _describe_result(
    groups: dict[tuple[str, float], list[dict]], entrant: str, target: float, ours: float | None
) -> str:
    """Time in which an entrant reached the target, as a multiple of ours, or how far it came."""
    failed, lengths = None, sorted(factor for name, factor in groups if name == entrant)
    for factor in lengths:
        runs = groups[entrant, factor]
        seconds = statistics.mean(run["seconds"] for run in runs)
        seeds = f", {len(runs)} of {ENOUGH} seeds" if len(runs) < ENOUGH else ""
        if statistics.mean(run["knn_top1"] for run in runs) < target:
            failed = seconds
            continue
        text = f"{target:g} % in {seconds / 60:.1f} minutes"
        if entrant != OURS and ours is not None:
            least = f"{failed / ours:.1f} to " if failed else "at most "
            text += f", {least}{seconds / ours:.1f} times ours"
        return f"{text}{seeds}"
    runs = groups[entrant, lengths[-1]]
    seeds = f" ({len(runs)} of {ENOUGH} seeds)" if len(runs) < ENOUGH else ""
    most = f" in {failed / ours:.1f} times our time" if failed and ours and entrant != OURS else ""
    return f"{target:g} % was not reached{most}{seeds}"


def _seconds_of_ours(groups: dict[tuple[str, float], list[dict]], target: float) -> float | None:
    """Mean seconds of ours; None if its mean accuracy is below the target."""
    runs = groups.get((OURS, 1.0), [])
    if not runs or statistics.mean(run["knn_top1"] for run in runs) < target:
        return None
    return statistics.mean(run["seconds"] for run in runs)


def _describe_spread(values: list[float]) -> str:
    mean = statistics.mean(values)
    if len(values) == 1:
        return f"{mean:.1f}"
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.1f} +- {error:.1f} ({', '.join(f'{value:.1f}' for value in values)})"


def write_table(records: list[dict[str, Any]], target: float) -> str:
    """Markdown: minutes and accuracy of each entrant and length, then what the target took.

    Records of one machine only belong into one table: the machines are named below it.
    """
    groups = group_records(records)
    lines = ["| entrant | images seen | minutes | kNN, test (%) | seeds |", "|---|---|---|---|---|"]
    for (entrant, _), runs in sorted(
        groups.items(), key=lambda item: (item[0][0] != OURS, item[0])
    ):
        minutes = statistics.mean(run["seconds"] for run in runs) / 60
        images = statistics.mean(run["images"] for run in runs)
        accuracy = _describe_spread([run["knn_top1"] for run in runs])
        lines.append(f"| {entrant} | {images:,.0f} | {minutes:.1f} | {accuracy} | {len(runs)} |")
    ours = _seconds_of_ours(groups, target)
    lines.append("")
    entrants = sorted({name for name, _ in groups}, key=lambda name: (name != OURS, name))
    lines += [f"- {name}: {_describe_result(groups, name, target, ours)}." for name in entrants]
    machines = sorted({f"{r['machine']['cpu']}, {r['machine']['cores']} cores" for r in records})
    dates = sorted({record["finished"][:10] for record in records})
    if records:
        lines += ["", f"{'; '.join(machines)}; {dates[0]} to {dates[-1]}."]
    return "\n".join(lines)
