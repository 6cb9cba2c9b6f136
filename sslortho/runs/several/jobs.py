"""Planned runs: their command, options, folder and log."""

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sslortho.data.options import PATH
from sslortho.options import Options, facts, to_arguments

PROGRAM = ("-m", "sslortho")
"""Arguments of Python that start the command line, installed or in a checkout."""

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")
"""The same as `torchrun`, without a look through PATH."""

TRAINING_IMAGES = {"digits": 1437, "cifar10": 50_000, "cifar100": 50_000}
"""Number of training images, of data sets where it is known before they are read."""


@dataclass(frozen=True)
class Job:
    """One planned run."""

    name: str
    command: str
    """Command of `sslortho`, such as "supervised"."""
    options: Mapping[str, Any]
    """Options of the command but `out`."""
    folder: Path
    """Run folder."""
    log: Path
    """File that takes its output."""

    @property
    def arguments(self) -> list[str]:
        """The options as a command line has them."""
        return to_arguments({**self.options, "out": str(self.folder)})

    @property
    def finished(self) -> bool:
        """Whether it has written its summary."""
        return (self.folder / "summary.json").exists()

    def command_line(self, processes: int = 1) -> list[str]:
        """Program and arguments that start it as this many processes."""
        launcher = [] if processes == 1 else [*TORCHRUN, str(processes)]
        return [sys.executable, *launcher, *PROGRAM, self.command, *self.arguments]

    def describe_command(self, processes: int = 1) -> str:
        """The same as a user would type it."""
        command = ["sslortho", self.command, *self.arguments]
        if processes > 1:
            launcher = ["torchrun", "--standalone", "--nproc_per_node", str(processes)]
            command = [*launcher, "-m", *command]
        return shlex.join(command)


def child_environment(folder: Path | None = None) -> dict[str, str]:
    """Environment in which `python -m sslortho` is the package that runs now.

    Python looks for modules in the working directory first, which may hold another checkout. From 3.11
    on, PYTHONSAFEPATH=1 prevents it; older versions ignore it.

    Args:
        folder: working directory of the child. Default: that of this process.
    """
    ours = Path(__file__).resolve().parents[3]
    if (folder or Path.cwd()).resolve() == ours:
        return dict(os.environ)
    return {"PYTHONSAFEPATH": "1", **os.environ}


def plain_values(options: Options) -> dict[str, Any]:
    """Options as YAML has them: tuples become lists."""
    return json.loads(json.dumps(options.values()))


def free_when_finished(cls: type[Options]) -> frozenset[str]:
    """Options whose value does not matter to a finished run: it outlives its data, and where it ran."""
    known = facts(cls)
    return frozenset({"data_dir", *(n for n, fact in known.items() if not fact.affects_result)})


def check_same_options(
    job: Job, options: Options, may_differ: Set[str] = frozenset(), *, ended: bool = False
) -> None:
    """Raise ValueError if the run folder of a job holds results of other options.

    Options that only one side knows are not compared; nor are fitted ones that are left out, those that
    may change when the run resumes, those whose content it compares itself and, for a finished run, those of
    `free_when_finished`.

    Args:
        job: its folder is looked at.
        options: all that the job's command would have.
        may_differ: options that are not compared where the run is finished.
        ended: the run is taken for finished though it has no summary, since it has diverged.
    """
    path = job.folder / "config.yaml"
    finished = job.finished or ended
    if not path.exists() or not (finished or any(job.folder.glob("checkpoints/*"))):
        return
    known = facts(type(options))
    free = {"out", *(name for name, fact in known.items() if fact.may_change or fact.by_content)}
    if finished:
        free |= free_when_finished(type(options)) | may_differ
    stored = yaml.safe_load(path.read_text())
    for name, value in plain_values(options).items():
        if name in free or name not in stored or (known[name].fitted and value is None):
            continue
        before = stored[name]
        if known[name].path and isinstance(before, str):
            before = os.path.expanduser(before)  # noqa: PTH111 - versions up to 0.1 did not
        if before != value:
            raise ValueError(
                f"{job.folder} holds a run with {name}={before!r}, but {name}={value!r} is asked for; "
                f"give another --out, the same {name}, or remove that folder"
            )


def check_data_dir(data: str, data_dir: str | None) -> None:
    """Raise ValueError if a data set needs a folder that is not given or does not exist."""
    if data == "digits":
        return
    if data == PATH:  # it was looked at when the options were made
        return
    if data_dir is None:
        raise ValueError(f"data={data!r} needs data_dir, the folder that it lies in")
    if not Path(data_dir).expanduser().is_dir():
        raise ValueError(f"data_dir={data_dir!r} is not a folder; give the one that {data} lies in")


def fit_subset(data: str, subset: int | None) -> int | None:
    """`subset`, or None (all images) where the data set has no more than that."""
    known = TRAINING_IMAGES.get(data)
    return None if subset is None or (known is not None and subset > known) else subset


def last_lines(log: Path, most: int = 5) -> Sequence[str]:
    """The last lines of a log that are not empty; a progress bar is a line each time it is drawn."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = [line.rstrip()[:LOG_WIDTH] for line in text.splitlines()]
    return [line for line in lines if line][-most:]


LOG_BYTES, LOG_WIDTH = 1 << 16, 300
"""End of a log that `last_lines` reads, in bytes, and characters of a line that it keeps."""
