"""Options that several scripts share, as bases of their configurations."""

import math
from dataclasses import dataclass
from typing import Literal


class Checked:
    """A configuration that checks its own fields, those of all its bases in turn."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            several = isinstance(value, tuple | list)
            numbers = [v for v in (value if several else [value]) if isinstance(v, float)]
            wanted = "finite numbers" if several else "a finite number"
            self._check(name, all(map(math.isfinite, numbers)), wanted)

    def _check(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ValueError(f"{name}={getattr(self, name)!r} must be {wanted}")

    def _check_least(self, least: int, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            self._check(name, value is None or value >= least, f"{least} or more")

    def _check_effect(self, on: str, **has_none: bool) -> None:
        """Raise ValueError for a field that has no effect, given the value of the field `on`."""
        for name, holds in has_none.items():
            if holds:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} has no effect on {on}={getattr(self, on)!r}"
                )


@dataclass(frozen=True, kw_only=True)
class DataOptions(Checked):
    """Which images, and how a process reads them."""

    data: Literal["digits", "cifar10", "cifar100", "folder", "beton", "imagenet"] = "digits"
    """Data set. folder: data_dir/train/<class>/*, data_dir/test or val/<class>/*. beton:
    data_dir/train.beton, data_dir/val.beton, see scripts/write_beton.py; needs FFCV. imagenet:
    betons if data_dir has them, else folders."""
    data_dir: str | None = None
    """Folder of the data set (digits needs none)."""
    cache: Literal["os", "process"] | None = None
    """How a beton is read. os: mapped into memory, shared by the ranks of a machine. process: whole
    pages ahead of need, in an order that visits each once or twice; for data larger than memory, of
    which it takes about batch_size pages over all ranks. Default os."""
    loader: Literal["auto", "tensor", "files"] = "auto"
    """How a folder is read: into memory, or file by file. auto: memory if all are small."""
    follow_links: bool = False
    """Read images through symbolic links that lead out of data_dir."""
    subset: int | None = None
    """Train on so many images only, balanced over the classes and chosen by seed."""
    workers: int | None = None
    """Threads that decode and augment images of a folder or a beton, on each rank; 0 for none.
    Default: the machine's cores, shared among its ranks."""
    threads: int | None = None
    """CPU threads of each process. Default: what torch takes; under a launcher, which would leave
    one, the machine's cores shared among its processes (when training on CPUs)."""
    channels_last: bool = True
    """Memory format of views and convolutions; the faster one for convolutions nearly everywhere."""
    rank_timeout: float = 600
    """Seconds that a rank waits for the others before it gives up and the job ends."""
    seed: int = 0
    """Of initial weights, order and augmentation; 0 to 2**32 - 1."""
    deterministic: bool = False
    """Take only operations whose bits are the same each time; on a CPU they are anyway, for one number
    of threads and ranks. One that has no such form is an error that names it."""
    out: str | None = None
    """Run folder."""
    debug: bool = False
    """Show the traceback of an error that is the user's."""

    def __post_init__(self) -> None:
        self._check_least(0, "workers")
        self._check("rank_timeout", self.rank_timeout > 0, "above 0 seconds")
        self._check_least(1, "threads")
        self._check("seed", 0 <= self.seed < 2**32, "from 0 to 2**32 - 1")
        self._check_effect(
            "data",
            data_dir=self.data == "digits" and self.data_dir is not None,
            loader=self.loader != "auto" and self.data not in ("folder", "imagenet"),
            cache=self.cache is not None and self.data not in ("beton", "imagenet"),
            follow_links=self.follow_links and self.data not in ("folder", "imagenet"),
        )
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions(Checked):
    """Which optimizer, with what."""

    optim: str = "orth_lars"
    """sgd, adam, adamw, lars, each also with orth_ in front, norm_sgd or component_norm_sgd."""
    lr: float
    """Rate of the weights per 256 samples: multiplied by batch_size / 256."""
    momentum: float | None = None
    """Of sgd and lars; default 0.9. 0 keeps no buffer."""
    nesterov: bool | None = None
    """Nesterov momentum of sgd and lars. Default false."""
    betas: tuple[float, float] | None = None
    """Of adam: decay of the mean gradient and of the mean square. Default 0.9 and 0.999."""
    weight_decay: float = 1e-6
    """Decay of the weights; biases and norms have none."""
    trust_coefficient: float | None = None
    """Of lars; default 0.001."""
    orth_layers: Literal["conv", "all"] | None = None
    """Whose gradients orth_* orthonormalises."""
    attention: Literal["whole", "heads"] | None = None
    """What orth_* takes for a matrix in attention layers: a whole weight, or each head's share of it.
    Default whole."""
    polar: Literal["auto", "svd", "gram_eigh", "polar_express", "newton_schulz"] | None = None
    """How orth_* orthonormalises. Default auto."""
    share: bool | None = None
    """Whether ranks share the work of orth_*. Default: if there are several. Changes rounding only."""

    def __post_init__(self) -> None:
        self._check_least(0, "lr", "weight_decay")
        self._check(
            "momentum", self.momentum is None or 0 <= self.momentum < 1, "from 0 to below 1"
        )
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=True has no effect on momentum=0; leave one of them out")
        betas = self.betas
        self._check(
            "betas", betas is None or all(0 <= b < 1 for b in betas), "two, each 0 to below 1"
        )
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class LoopOptions(Checked):
    """How long to train, in what precision, and what to tell on the way."""

    batch_size: int
    """Samples of one optimizer step, over all ranks and accumulated batches together."""
    accumulation_steps: int = 1
    """Parts that a step's samples are cut into to save memory."""
    epochs: int
    """Passes over the data."""
    warmup_epochs: float = 0
    """Linear warm-up from 0."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """fp16 needs a GPU."""
    compile: bool = False
    """torch.compile the model."""
    shard: bool = False
    """Split parameters, gradients and optimizer state among the ranks (torch's FSDP2), for networks that
    are large for one GPU. A checkpoint is the same file, and resumes with or without it."""
    sync_batch_norm: bool = True
    """Batch norm statistics over all ranks."""
    max_bad_steps: int = 10
    """Stop after so many steps in a row with non-finite gradients; each is skipped."""
    log_every: int = 10
    """Steps between records of metrics.jsonl."""
    log_gradients: bool = False
    """Record of each orthonormalised layer the cosine between raw and orthonormal gradient, their
    distance, and the gradient's effective rank, at every record."""
    log_layers: bool = False
    """Record of each layer, at every record, the cosines between its filters and between their outputs,
    how many of its gradients are 0, the gradient's norm and its cosine to the orthonormal one."""
    evaluate_every: int = 1
    """Epochs between evaluations on the way; 0 for none."""
    checkpoint_every: int = 1
    """Epochs between checkpoints."""
    keep_last: int = 2
    """Checkpoints kept."""
    trackers: str = "tensorboard"
    """Comma-separated trackers of Accelerate (tensorboard, wandb, ...), or none."""

    def __post_init__(self) -> None:
        self._check_least(1, "batch_size", "accumulation_steps", "epochs", "log_every")
        self._check_least(1, "checkpoint_every", "keep_last", "max_bad_steps")
        self._check_least(0, "evaluate_every")
        for name in ("compile", "log_layers", "log_gradients"):
            if self.shard and getattr(self, name):
                raise ValueError(f"shard=True does not go with {name}=True; leave one of them out")
        self._check(
            "warmup_epochs",
            0 <= self.warmup_epochs <= self.epochs,
            f"from 0 to {self.epochs} epochs",
        )
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(LoopOptions, OptimizerOptions, DataOptions):
    """All that a training of any kind is told."""

    def __post_init__(self) -> None:
        raw = self.log_gradients and not self.optim.startswith("orth_")
        self._check_effect("optim", log_gradients=raw)
        self._check_effect("log_layers", log_gradients=self.log_gradients and self.log_layers)
        super().__post_init__()
