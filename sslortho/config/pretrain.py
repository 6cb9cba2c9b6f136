"""What pretraining can be told, and whether a run folder is of the same run."""

import dataclasses
import re
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import yaml

MAY_CHANGE = frozenset(
    {
        "out",
        "workers",
        "log_every",
        "log_gradients",
        "checkpoint_every",
        "keep_last",
        "max_bad_steps",
        "trackers",
        "debug",
    }
)
"""Options that a resumed run may be given anew, since its weights do not depend on them."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Self-supervised pretraining. The defaults are the embedded digits, minutes on a CPU."""

    method: Literal["barlow_twins"] = "barlow_twins"
    """What is learned."""
    data: Literal["digits", "cifar10", "cifar100", "folder", "beton"] = "digits"
    """Data set. folder: data_dir/train/<class>/*, data_dir/test or val/<class>/*. beton:
    data_dir/train.beton, data_dir/val.beton, see scripts/write_beton.py; needs FFCV."""
    data_dir: str | None = None
    """Folder of the data set (digits needs none)."""
    cache: Literal["os", "process"] | None = None
    """How a beton is read. os: mapped into memory, shared by the ranks of a machine. process: whole
    pages ahead of need, in an order that visits each once or twice; for data larger than memory, of
    which it takes about batch_size pages over all ranks. Default os."""
    loader: Literal["auto", "tensor", "files"] = "auto"
    """How a folder is read: into memory, or file by file. auto: memory if all are small."""
    subset: int | None = None
    """Train on so many images only, balanced over the classes and chosen by seed."""
    workers: int | None = None
    """Threads that decode and augment images of a folder or a beton, on each rank; 0 for none.
    Default: the machine's cores, shared among its ranks."""
    threads: int | None = None
    """CPU threads of each process. Default: what torch takes; under a launcher, which would leave
    one, the machine's cores shared among its processes (when training on CPUs)."""
    out: str | None = None
    """Run folder. Default: runs/{method}-{data}-{optim}-s{seed}."""
    seed: int = 0
    """Of initial weights, order and augmentation; 0 to 2**32 - 1."""

    views: Literal["auto", "barlow_twins", "barlow_twins_small", "barlow_twins_digits"] = "auto"
    """Pair of views. auto: up to 64 pixels _digits for digits, else _small (no
    blur); beyond, the paper's."""
    crop_size: int = 32
    """Side of the views in pixels."""
    backbone: str = "resnet20"
    """Backbone by name: basic_cnn, resnet20, resnet18, resnet50, ..., or timm:NAME."""
    stem: Literal["auto", "stock", "small"] = "auto"
    """First layers of torchvision's networks. auto: small (3x3, no pooling) up to 64 pixels."""
    projector: str = "512-512-512"
    """Widths of the projector's layers. The paper's, for ResNet-50: 8192-8192-8192."""
    lambda_param: float = 0.0051
    """Weight of the redundancy term; 0.0051 as in facebookresearch/barlowtwins."""

    optim: str = "orth_lars"
    """sgd, adam, adamw, lars, each also with orth_ in front, norm_sgd or component_norm_sgd."""
    lr: float = 6.0
    """Rate of the weights per 256 samples: multiplied by batch_size / 256. The default is for the
    digits' 143 steps; facebookresearch/barlowtwins takes 0.2 for 300 epochs of ImageNet."""
    lr_biases: float = 0.0048
    """Rate of biases and norms per 256 samples."""
    momentum: float | None = None
    """Of sgd and lars; default 0.9."""
    weight_decay: float = 1e-6
    """Decay of the weights; biases and norms have none."""
    trust_coefficient: float | None = None
    """Of lars; default 0.001."""
    orth_layers: Literal["conv", "all"] | None = None
    """Whose gradients orth_* orthonormalises. Default conv, as the paper for Barlow Twins."""
    polar: Literal["auto", "svd", "gram_eigh", "polar_express", "newton_schulz"] | None = None
    """How orth_* orthonormalises. Default auto."""
    share: bool | None = None
    """Whether ranks share the work of orth_*. Default: if there are several. Changes rounding only."""

    batch_size: int = 128
    """Samples of one optimizer step, over all ranks and accumulated batches together."""
    accumulation_steps: int = 1
    """Parts that a step's samples are cut into to save memory. Each part has its own batch norm
    statistics and correlation matrix, so this is not the same as one large batch."""
    epochs: int = 13
    """Passes over the data."""
    warmup_epochs: float = 1
    """Linear warm-up from 0 before the cosine."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """fp16 needs a GPU."""
    channels_last: bool = True
    """Memory format of views and convolutions; the faster one for convolutions nearly everywhere."""
    compile: bool = False
    """torch.compile the model."""
    sync_batch_norm: bool = True
    """Batch norm statistics over all ranks."""
    max_bad_steps: int = 10
    """Stop after so many steps in a row with non-finite gradients; each is skipped."""

    log_every: int = 10
    """Steps between records of metrics.jsonl."""
    log_gradients: bool = False
    """Record of each orthonormalised layer the cosine between raw and orthonormal gradient, their
    distance, and the gradient's effective rank, at every record."""
    evaluate_every: int = 2
    """Epochs between online kNN evaluations; 0 for none."""
    knn_k: int = 20
    """Neighbours of the kNN evaluation."""
    knn_temperature: float = 0.07
    """Temperature of the kNN evaluation."""
    linear_probe: bool = True
    """Fit a linear probe on frozen features at the end. Its memory is about 50 kB an image with 1,000
    classes."""
    checkpoint_every: int = 1
    """Epochs between checkpoints."""
    keep_last: int = 2
    """Checkpoints kept."""
    trackers: str = "tensorboard"
    """Comma-separated trackers of Accelerate (tensorboard, wandb, ...), or none."""
    debug: bool = False
    """Show the traceback of an error that is the user's."""

    def __post_init__(self) -> None:
        for name in ("crop_size", "batch_size", "accumulation_steps", "epochs", "log_every"):
            self._check(name, getattr(self, name) >= 1, "1 or more")
        for name in ("checkpoint_every", "keep_last", "max_bad_steps", "knn_k"):
            self._check(name, getattr(self, name) >= 1, "1 or more")
        for name in ("lr", "lr_biases", "weight_decay", "lambda_param"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        self._check("workers", self.workers is None or self.workers >= 0, "0 or more")
        self._check("evaluate_every", self.evaluate_every >= 0, "0 or more")
        self._check("knn_temperature", self.knn_temperature > 0, "above 0")
        self._check("threads", self.threads is None or self.threads >= 1, "1 or more")
        self._check("seed", 0 <= self.seed < 2**32, "from 0 to 2**32 - 1")
        self._check(
            "warmup_epochs",
            0 <= self.warmup_epochs <= self.epochs,
            f"from 0 to {self.epochs} epochs",
        )
        self._check("projector", bool(re.fullmatch(r"[1-9]\d*(-[1-9]\d*)*", self.projector)),
                    "widths joined by dashes, such as 2048-2048-2048")  # fmt: skip
        if self.data == "digits" and self.data_dir is not None:
            raise ValueError(f"data_dir={self.data_dir!r} has no effect on data='digits'")
        if self.loader != "auto" and self.data != "folder":
            raise ValueError(f"loader={self.loader!r} has no effect on data={self.data!r}")
        if self.cache is not None and self.data != "beton":
            raise ValueError(f"cache={self.cache!r} has no effect on data={self.data!r}")

    def _check(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ValueError(f"{name}={getattr(self, name)!r} must be {wanted}")

    @property
    def projector_widths(self) -> tuple[int, ...]:
        """`projector` as numbers."""
        return tuple(int(width) for width in self.projector.split("-"))

    @property
    def run_folder(self) -> Path:
        """Where the run lives."""
        return Path(self.out or f"runs/{self.method}-{self.data}-{self.optim}-s{self.seed}")


def to_yaml(config: PretrainConfig) -> str:
    """A configuration as the YAML that `--config` reads."""
    return yaml.safe_dump(asdict(config), sort_keys=False)


def check_same_run(config: PretrainConfig, path: Path) -> None:
    """Raise ValueError if a run folder's config.yaml is of another run than `config` describes."""
    if not path.exists():
        return
    stored = yaml.safe_load(path.read_text())
    ours = asdict(config)
    known = {f.name for f in dataclasses.fields(config)}
    if unknown := set(stored) - known:
        warnings.warn(f"{path} has unknown options: {', '.join(sorted(unknown))}", stacklevel=2)
    different = [
        f"{name} ({stored[name]!r} there, {ours[name]!r} here)"
        for name in stored
        if name in known - MAY_CHANGE and stored[name] != ours[name]
    ]
    if different:
        raise ValueError(
            f"{path.parent} holds a run with other options: {', '.join(different)}; "
            "give another --out, or the same options to resume it"
        )
