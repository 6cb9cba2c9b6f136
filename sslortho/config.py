"""What each script can be told: one frozen dataclass a script, and how a command line becomes one."""

import dataclasses
import difflib
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

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
    pages ahead of need, in an order that visits each page once; for data larger than memory.
    Default os."""
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


@dataclass(frozen=True, kw_only=True)
class BenchOptimConfig:
    """Time orthonormalisation beside the ways that others take, on the same gradients."""

    models: str = "resnet18,resnet50,vit_b_16"
    """Comma-separated names of torchvision networks; their gradients are what is orthonormalised."""
    gradients: Literal["random", "real", "spectrum"] = "real"
    """real: of the network after --steps steps on the embedded digits. random: Gaussian. spectrum:
    singular values from 1 to 1e-3, evenly on a logarithmic scale."""
    steps: int = 10
    """Training steps before the real gradients are taken."""
    rounds: int = 5
    """Times that every method runs, in turn."""
    batch_size: int | None = None
    """Images of the training step whose share is measured, two views each. Default: 256 on a GPU, 8
    on a CPU."""
    image_size: int = 224
    """Side of those images in pixels."""
    device: str = "auto"
    """cpu, cuda, ...; auto: a GPU if there is one."""
    errors: bool = True
    """Compare every result with a float64 SVD."""
    out: str = "runs/bench_optim"
    """Folder of bench_optim.json and bench_optim.png."""

    def __post_init__(self) -> None:
        for name in ("rounds", "image_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be 1 or more")
        if self.steps < 0:
            raise ValueError(f"steps={self.steps} must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class BenchLoadingConfig:
    """Time loaders and augmentation beside other libraries', on the same images."""

    data_dir: str
    """Folder of images, in class folders or not; its folder train/ if it has one."""
    out: str = "bench.json"
    """File of the figures; a plot of the same name, .png, is drawn beside it."""
    pipelines: str | None = None
    """Comma-separated names. Default: all that are installed."""
    small: bool = False
    """Small images of one size, held in memory, and the views for them: no blur."""
    images: int | None = None
    """Images that are read, evenly spread over the folder. Default 512, with small 5,000."""
    crop_size: int | None = None
    """Side of the views in pixels. Default 224, with small 32."""
    batch_size: int | None = None
    """Images of a batch. Default 64, with small 256."""
    epochs: int = 5
    """Rounds, in which all pipelines take turns, after one that is not timed."""
    workers: int | None = None
    """Processes or threads of every pipeline. Default: one a core."""
    max_resolution: int | None = None
    """Of the beton: pixels that the longer side of larger images is reduced to. Default 500."""
    quality: int | None = None
    """Of the beton's JPEGs, 1 to 100. Default 90."""
    debug: bool = False
    """Show the traceback of an error that is the user's."""

    def __post_init__(self) -> None:
        for name in ("images", "crop_size", "batch_size", "epochs", "workers", "max_resolution"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be 1 or more")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"quality={self.quality} must be from 1 to 100")
        if Path(self.out).suffix != ".json":
            raise ValueError(f"out={self.out!r} must be a path that ends in .json")
        for name in ("max_resolution", "quality"):
            if self.small and getattr(self, name) is not None:
                raise ValueError(
                    f"{name}={getattr(self, name)} has no effect on small=True, which reads no beton"
                )

    @property
    def image_count(self) -> int:
        """`images`, or its default."""
        return self.images or (5000 if self.small else 512)

    @property
    def view_size(self) -> int:
        """`crop_size`, or its default."""
        return self.crop_size or (32 if self.small else 224)

    @property
    def samples(self) -> int:
        """`batch_size`, or its default."""
        return self.batch_size or (256 if self.small else 64)


@dataclass(frozen=True, kw_only=True)
class ShowViewsConfig(PretrainConfig):
    """Draw what pretraining with the same options shows the model, with what was drawn as captions."""

    count: int = 8
    """Samples shown: the first of the first batch."""
    epoch: int = 0
    """Epoch that the batch is of."""
    out: str | None = None
    """Picture to write, .png, .pdf or .svg. Default views.png."""

    def __post_init__(self) -> None:
        super().__post_init__()
        batch_size = self.batch_size // self.accumulation_steps
        self._check("count", 1 <= self.count <= batch_size, f"from 1 to a batch of {batch_size}")
        self._check("epoch", 0 <= self.epoch < 2**32, "from 0 to 2**32 - 1")
        suffix = Path(self.picture).suffix
        self._check("out", suffix in (".png", ".pdf", ".svg"), "a picture: .png, .pdf or .svg")

    @property
    def picture(self) -> str:
        """`out`, or its default."""
        return self.out or "views.png"


@dataclass(frozen=True, kw_only=True)
class WriteBetonConfig:
    """Write a data set as one .beton file, which loads several times faster than image files."""

    data: Literal["digits", "cifar10", "cifar100", "folder"] = "folder"
    """Data set. folder: data_dir/train/<class>/*, data_dir/test or val/<class>/*."""
    data_dir: str | None = None
    """Folder of the data set (digits needs none)."""
    split: Literal["train", "val", "test"] = "train"
    """Part of the data. val and test are two names for the one that is not for training."""
    out: str
    """File to write; B/train.beton and B/val.beton are what pretraining reads of --data_dir B."""
    mode: Literal["raw", "jpg", "smart"] = "jpg"
    """raw: pixels. jpg: JPEG bytes. smart: pixels where they take at most smart_threshold times the
    bytes of a JPEG, a JPEG elsewhere."""
    max_resolution: int | None = None
    """Pixels that the longer side of larger images is reduced to. Default: their own size."""
    quality: int | None = None
    """Of JPEGs, 1 to 100. Default: JPEG files that need no resizing keep their bytes, other images
    are encoded with 90."""
    smart_threshold: float | None = None
    """Of mode smart; default 4."""
    page_size: int = 8
    """MiB of a page, a power of two from 2 to 2048; the most that one image may take."""
    workers: int | None = None
    """Threads that decode and encode. Default: one a core."""
    skip_broken: bool = False
    """Leave out image files that cannot be decoded, and list them in the manifest."""
    overwrite: bool = False
    """Replace an existing file."""
    debug: bool = False
    """Show the traceback of an error that is the user's."""

    def __post_init__(self) -> None:
        page_size, quality = self.page_size, self.quality
        self._check("out", Path(self.out).suffix == ".beton", "a path that ends in .beton")
        for name in ("max_resolution", "workers"):
            self._check(name, getattr(self, name) is None or getattr(self, name) >= 1, "1 or more")
        self._check("quality", quality is None or 1 <= quality <= 100, "from 1 to 100")
        threshold = self.smart_threshold
        self._check("smart_threshold", threshold is None or threshold > 0, "above 0")
        power = 2 <= page_size <= 2048 and page_size & (page_size - 1) == 0
        self._check("page_size", power, "a power of two from 2 to 2048 (MiB)")
        if self.data != "digits" and self.data_dir is None:
            raise ValueError(f"data={self.data!r} needs data_dir, the folder that it lies in")
        no_effect = {
            "data_dir": self.data == "digits" and self.data_dir is not None,
            "skip_broken": self.data != "folder" and self.skip_broken,
            "quality": self.mode == "raw" and quality is not None,
            "smart_threshold": self.mode != "smart" and threshold is not None,
        }
        for name, holds in no_effect.items():
            if holds:
                on = "data" if name in ("data_dir", "skip_broken") else "mode"
                raise ValueError(
                    f"{name}={getattr(self, name)!r} has no effect on {on}={getattr(self, on)!r}"
                )

    def _check(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ValueError(f"{name}={getattr(self, name)!r} must be {wanted}")


Config = TypeVar("Config")


def _nearest(name: str, config: type[Any]) -> str:
    names = [f.name for f in fields(config)]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


class _Parser(ArgumentParser):
    """One line and exit code 2 for a mistake, with the nearest right name."""

    config_class: type[Any]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: --([\w-]+)", message) or re.search(
            r"[Oo]ption '([\w-]+)' is not accepted", message
        )
        hint = _nearest(unknown[1], self.config_class) if unknown else ""
        print(f"{self.prog}: error: {' '.join(message.split())}{hint}", file=sys.stderr)
        sys.exit(2)


def _spell_out_switches(arguments: Sequence[str], config: type[Any]) -> list[str]:
    """`--compile` to `--compile true`: a switch needs no value, but may have one."""
    switches = {f"--{f.name}" for f in fields(config) if f.type in (bool, "bool")}
    result: list[str] = []
    for i, argument in enumerate(arguments):
        result.append(argument)
        following = arguments[i + 1] if i + 1 < len(arguments) else "--"
        if argument in switches and following.startswith("--"):
            result.append("true")
    return result


def parse_config(config: type[Config], arguments: Sequence[str] | None = None) -> Config:
    """A configuration from a command line: `--config FILE.yaml`, and flags that override it.

    An unknown key, on the command line or in a file, is an error that names the nearest right one.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = _Parser(description=config.__doc__, allow_abbrev=False)
    parser.config_class = config
    parser.add_argument("--config", action="config", help="YAML file with any of the options")
    parser.add_class_arguments(config)
    given = sys.argv[1:] if arguments is None else arguments
    values = parser.parse_args(_spell_out_switches(given, config)).as_dict()
    values.pop("config")
    try:
        return config(**values)
    except ValueError as error:
        parser.error(str(error))


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
