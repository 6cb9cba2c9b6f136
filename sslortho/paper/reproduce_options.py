"""What reproduce.py can be told, beside the name of an experiment."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from sslortho.recipes.options import Checked


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions(Checked):
    """Run an experiment of the paper, with its settings but for what is given here, and write
    out/report.md: our figures beside the paper's. The experiment's name comes first on the command line.
    """

    data: Literal["cifar10", "cifar100", "digits", "folder", "imagenet", "beton"] | None = None
    """Data set. Default: the paper's."""
    data_dir: str | None = None
    """Folder of the data set (digits has none)."""
    out: str | None = None
    """Folder of the runs, their logs and the report. Default: runs/{experiment}."""
    epochs: int | None = None
    """Passes over the data; milestones and warm-up move in proportion. Default: the paper's."""
    seeds: int | None = None
    """Runs of each cell, with seeds from 0. Default: the paper's number."""
    subset: int | None = None
    """Train on so many images only; all, where there are not so many. Where an epoch would have less than 8
    steps, the batch is made smaller."""
    only: str | None = None
    """Rows and columns of the table, by their keys, with commas: basic_cnn,resnet20,orth_sgd. Default
    all; so too of rows or columns if none of them is named."""
    jobs: int | None = None
    """Runs at a time. Default: one for each GPU; one on a CPU. More than GPUs share them."""
    gpus_per_run: int = 1
    """GPUs of each run, a process for each: 8 for ImageNet. The batch is shared among them."""
    threads: int | None = None
    """CPU threads of each run. Default: what torch takes; with several jobs, a share of the cores."""
    report: bool = False
    """Run nothing; write the report of what there is."""
    dry_run: bool = False
    """Run nothing; print the command of every run that is not finished."""
    debug: bool = False
    """Show the traceback of an error that is the user's."""

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
    def asked(self) -> dict[str, Any]:
        """What was given, for a report: the options that say what is run, and where."""
        left_out = {"report", "dry_run", "debug", "jobs", "gpus_per_run"}
        given = asdict(self)
        return {n: v for n, v in given.items() if v is not None and n not in left_out}
