"""Options of `reproduce`."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sslortho.options import Options, facts, option


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions(Options):
    """Run an experiment of the paper, with its settings but for those given here, and write
    out/report.md: our figures beside the paper's. The experiment's name comes first on the command line.
    """

    command: ClassVar[str] = "reproduce"

    data: Literal["cifar10", "cifar100", "digits", "folder", "imagenet", "beton"] | None = option(
        None, group="data"
    )
    """Data set. Default: the paper's."""
    data_dir: str | None = option(None, group="data", path=True, affects_result=False)
    """Folder of the data set (digits needs none)."""
    out: str | None = option(None, group="output", path=True, affects_result=False)
    """Folder of the runs, their logs and the report. Default: runs/{experiment}."""
    epochs: int | None = option(None, group="optimisation")
    """Passes over the data; milestones and warm-up move in proportion. Default: the paper's."""
    seeds: int | None = option(None, group="optimisation")
    """Runs of each cell, with seeds from 0. Default: the paper's number."""
    subset: int | None = option(None, group="data", unit="images")
    """Train on this many images only; on all, where there are not that many. If an epoch would have
    fewer than 8 steps, the batch is made smaller."""
    only: str | None = option(None, group="model and method")
    """Rows and columns of the table, by their keys, with commas: basic_cnn,resnet20,orth_sgd. Default
    all; so too of rows or columns if none of them is named."""
    mixed_precision: Literal["auto", "no", "fp16", "bf16"] | None = option(None, group="hardware")
    """Precision of the networks of all runs that start now; auto is for pretraining. Default: the
    experiment's. If it is given, finished runs of another precision count too, and the report says so."""
    jobs: int | None = option(None, group="hardware", may_change=True, affects_result=False)
    """Runs at a time. Default: one for each GPU; one on a CPU. More than GPUs share them."""
    gpus_per_run: int = option(1, group="hardware", may_change=True, affects_result=False)
    """GPUs of each run, a process for each: 8 for ImageNet. The batch is shared among them."""
    threads: int | None = option(None, group="hardware", affects_result=False)
    """CPU threads of each run. Default: torch's own number; with several jobs, a share of the cores."""
    report: bool = option(False, group="output", may_change=True, affects_result=False)
    """Run nothing; write the report of the runs that there are."""
    dry_run: bool = option(False, group="output", may_change=True, affects_result=False)
    """Run nothing; print the command of every run that is not finished."""
    kept: str | None = option(
        None, group="output", path=True, may_change=True, affects_result=False
    )
    """File of the figures of finished runs. Those in it are not run again; those that finish are added. So
    an experiment can be gone on with on another machine, without the runs' folders."""
    debug: bool = option(False, group="output", rare=True, may_change=True, affects_result=False)
    """Show the traceback of a user's error."""

    def __post_init__(self) -> None:
        self._check_least(1, "epochs", "seeds", "subset", "jobs", "threads", "gpus_per_run")
        self._check("only", self.only is None or bool(self.keys), "keys with commas between them")
        self._check_effect("report", dry_run=self.report and self.dry_run)
        super().__post_init__()

    @property
    def keys(self) -> list[str]:
        """`only` as a list."""
        return [key.strip() for key in (self.only or "").split(",") if key.strip()]

    @property
    def may_differ(self) -> frozenset[str]:
        """Options in which finished runs may differ from those that start now."""
        return frozenset() if self.mixed_precision is None else frozenset({"mixed_precision"})

    @property
    def asked(self) -> dict[str, Any]:
        """Given options that say which runs are made, and where; for a report."""
        known, values = facts(type(self)), self.values()
        return {n: v for n, v in values.items() if v is not None and not known[n].may_change}
