"""Runs of a script that are to be: their options, folders and logs."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from sslortho.paper.grid import Experiment

NO_RESULT = frozenset({"threads", "data_dir", "workers", "cache", "loader"})
"""Options that do not bear on what a run has found once it is finished: how it was fed, and from where."""


@dataclass(frozen=True)
class Job:
    """One run: a script, its options and where it writes."""

    name: str
    script: Path
    options: Mapping[str, Any]
    folder: Path
    log: Path

    @property
    def arguments(self) -> list[str]:
        """The options as a command line has them."""
        options = {**self.options, "out": str(self.folder)}
        return [text for name, value in options.items() for text in (f"--{name}", _to_text(value))]

    @property
    def finished(self) -> bool:
        """Whether it has written its summary."""
        return (self.folder / "summary.json").exists()


def _to_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def plan_jobs(
    experiment: Experiment, scripts: Path, out: Path, seeds: int, shared: Mapping[str, Any]
) -> list[Job]:
    """A job for every seed and cell: all cells with the first seed, then all with the second.

    Args:
        experiment: its cells.
        scripts: folder of the scripts.
        out: runs/NAME and logs/NAME.log are below it.
        seeds: from 0 to seeds - 1.
        shared: options of every run, such as data_dir; those that are None are left out.
    """
    given = {name: value for name, value in shared.items() if value is not None}
    return [
        Job(
            name=f"{cell.name}-s{seed}",
            script=scripts / experiment.script,
            options={"data": experiment.data, **given, **cell.options, "seed": seed},
            folder=out / "runs" / f"{cell.name}-s{seed}",
            log=out / "logs" / f"{cell.name}-s{seed}.log",
        )
        for seed in range(seeds)
        for cell in experiment.cells
    ]


def plain_options(config: Any) -> dict[str, Any]:
    """A configuration, a dataclass, as YAML has it: its tuples are lists."""
    return json.loads(json.dumps(asdict(config)))


def check_same_options(job: Job, options: Mapping[str, Any], may_change: Collection[str]) -> None:
    """Raise ValueError if the run folder holds results of other options than these.

    Args:
        job: whose folder is looked at.
        options: all that its script would have, defaults too, as YAML has them; those that one side
            does not know are not compared.
        may_change: options that do not matter to a run that is resumed. None of NO_RESULT matters to
            one that is finished.
    """
    path = job.folder / "config.yaml"
    if not path.exists() or not (job.finished or any(job.folder.glob("checkpoints/*"))):
        return
    free = {"out", *may_change, *(NO_RESULT if job.finished else ())}
    stored = yaml.safe_load(path.read_text())
    for name, value in options.items():
        if name not in free and name in stored and stored[name] != value:
            raise ValueError(
                f"{job.folder} holds a run with {name}={stored[name]!r}, but {name}={value!r} is "
                f"asked for; give another --out, the same {name}, or remove that folder"
            )


def check_data_dir(data: str, data_dir: str | None) -> None:
    """Raise ValueError if these data need a folder that is not given or not there."""
    if data == "digits":
        return
    if data_dir is None:
        raise ValueError(f"data={data!r} needs data_dir, the folder that it lies in")
    if not Path(data_dir).expanduser().is_dir():
        raise ValueError(f"data_dir={data_dir!r} is no folder; give the one that {data} lies in")
