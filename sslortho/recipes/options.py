"""Options that several commands share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sslortho.data.options import DataOptions
from sslortho.data.skip_list import SKIP_LIST
from sslortho.options import GIVEN, Options, option
from sslortho.train.options import LoopOptions, ProcessOptions

Stem = Literal["auto", "stock", "small"]


@dataclass(frozen=True, kw_only=True)
class RunOptions(ProcessOptions, DataOptions):
    """Options of every command that works on images and writes a run folder."""

    out: str | None = option(None, group="output", path=True, may_change=True, affects_result=False)
    """Run folder."""
    debug: bool = option(False, group="output", rare=True, may_change=True, affects_result=False)
    """Show the traceback of a user's error."""

    @property
    def default_folder(self) -> str:
        """Run folder where `out` is not given."""
        raise TypeError(f"{type(self).__name__} has no run folder")

    @property
    def run_folder(self) -> Path:
        """Folder of the run."""
        return Path(self.out or self.default_folder)

    @property
    def skip_list(self) -> Path | None:
        return self.run_folder / SKIP_LIST


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions(Options):
    """Which optimizer, with which settings."""

    optim: str = option("orth_lars", group="optimisation")
    """sgd, adam, adamw, lars, each also with orth_ in front, muon, norm_sgd or component_norm_sgd."""
    lr: float = option(required=True, group="optimisation", unit="per 256 samples")
    """Learning rate of the weights; multiplied by batch_size / 256."""
    momentum: float | None = option(None, group="optimisation")
    """Momentum of sgd and lars, after the orthonormalisation; default 0.9, or 0 with orth_momentum. That of
    muon comes before; default 0.95. 0 keeps no buffer."""
    orth_momentum: float | None = option(None, group="optimisation")
    """Momentum of orth_* before the orthonormalisation, as Muon has it; default none. Alone it replaces the
    one after it; with momentum (adam: betas) there are both. Raw gradients keep the usual one."""
    nesterov: bool | None = option(None, group="optimisation", rare=True)
    """Nesterov momentum of sgd and lars, and of orth_momentum where it is the only one. Default false; of
    muon true."""
    betas: tuple[float, float] | None = option(None, group="optimisation", rare=True)
    """Decay of the mean gradient and of the mean square, of adam. Default 0.9 and 0.999; of muon's AdamW 0.9
    and 0.95."""
    adamw_lr: float | None = option(None, group="optimisation")
    """Learning rate of muon's AdamW, absolute, whatever the batch: of all that is not orthonormalised.
    Default 0.0003."""
    scale: Literal["none", "muon", "moonlight", "spectral"] | None = option(
        None, group="optimisation", rare=True
    )
    """Factor of muon's update by the sides of its matrix: 1, sqrt(max(1, rows / columns)),
    0.2 sqrt(max(rows, columns)) or sqrt(rows / columns). Default muon."""
    normalise_rows: float | None = option(None, group="optimisation", rare=True)
    """Coefficient of the second moment by which muon normalises rows, as NorMuon's 0.95. Default none."""
    weight_decay: float = option(1e-6, group="optimisation")
    """Decay of the weights; biases and norms have none."""
    trust_coefficient: float | None = option(None, group="optimisation", rare=True)
    """Trust coefficient of lars; default 0.001."""
    orth_layers: Literal["conv", "all"] | None = option(None, group="optimisation")
    """Layers whose gradients orth_* and muon orthonormalise. Default of muon all."""
    attention: Literal["whole", "qkv", "heads"] | None = option(
        None, group="optimisation", rare=True
    )
    """Matrices of attention layers for orth_* and muon: a whole weight, q, k and v apart, or each head's share.
    Default whole."""
    polar: (
        Literal[
            "auto", "svd", "gram_eigh", "polar_express", "polar_express_fp16x3", "newton_schulz",
            "muon", "muon_bf16",
        ]
        | None
    ) = option(None, group="optimisation", rare=True)  # fmt: skip
    """Method by which orth_* and muon orthonormalise. Default auto, which is exact; muon and muon_bf16 are the
    five steps of torch.optim.Muon, 0.7 to 1.2 times orthonormal. On a GPU polar_express keeps to float32."""
    share: bool | None = option(None, group="hardware", rare=True)
    """Whether ranks share the work of orth_*. Default: if there are several. Changes rounding only."""

    @property
    def optimizer_settings(self) -> dict[str, Any]:
        """Arguments of `optim.settings.settle_optimizer`, but for rate and default layers."""
        names = (
            "momentum", "orth_momentum", "nesterov", "betas", "trust_coefficient", "polar", "share",
            "adamw_lr", "scale", "normalise_rows",
        )  # fmt: skip
        return {
            "name": self.optim,
            "given": {name: getattr(self, name) for name in names},
            "weight_decay": self.weight_decay,
            "orth_layers": self.orth_layers,
            "attention": self.attention,
        }

    def __post_init__(self) -> None:
        self._check_least(0, "lr", "weight_decay", "adamw_lr")
        self._check(
            "momentum", self.momentum is None or 0 <= self.momentum < 1, "from 0 to below 1"
        )
        before = self.orth_momentum
        self._check("orth_momentum", before is None or 0 <= before < 1, "from 0 to below 1")
        if self.nesterov and self.momentum == 0 and not before:
            raise ValueError("nesterov=True has no effect on momentum=0; leave one of them out")
        betas = self.betas
        self._check(
            "betas", betas is None or all(0 <= b < 1 for b in betas), "two, each 0 to below 1"
        )
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(LoopOptions, OptimizerOptions, RunOptions):
    """Options of a training of any kind."""

    batch_size: int | None = option(None, group="optimisation", unit="samples", fitted=True)
    """Samples of one optimizer step, over all ranks and accumulated batches together."""
    warmup_epochs: float = option(0, group="optimisation", unit="epochs")
    """Linear warm-up from 0."""
    mixed_precision: Literal["no", "fp16", "bf16"] = option("no", group="hardware")
    """Precision of the network; fp16 needs a GPU."""
    compile: bool = option(False, group="hardware")
    """torch.compile the model."""
    sync_batch_norm: bool = option(True, group="hardware", rare=True)
    """Batch norm statistics over all ranks."""
    accept_changed_data: bool = option(
        False, group="data", rare=True, may_change=True, affects_result=False, once=True
    )
    """Resume though images were added, removed or changed since the run began. It goes on at the same
    place of the schedule, with the images in a new order. Without it such a run is refused."""
    announce: bool = option(True, group="output", rare=True, may_change=True, affects_result=False)
    """Say on stderr before the first step what will be trained, and after a few steps how long it will
    take."""
    trackers: str = option("tensorboard", group="output", may_change=True, affects_result=False)
    """Comma-separated trackers of Accelerate (tensorboard, wandb, ...), or none."""

    def __post_init__(self) -> None:
        self._check_least(1, "batch_size", "accumulation_steps", "epochs")
        if self.batch_size is not None and self.batch_size % self.accumulation_steps:
            raise ValueError(
                f"batch_size={self.batch_size} does not divide into accumulation_steps="
                f"{self.accumulation_steps} parts; choose a multiple"
            )
        if self.compile and self.cuda_graphs:
            raise ValueError("cuda_graphs=True compiles too; leave compile=True out")
        if self.shard and self.compile:
            raise ValueError("shard=True does not go with compile=True; leave one of them out")
        self._check_warmup(self.warmup_epochs, self.epochs)
        raw = self.log_gradients and not self.optim.startswith(("orth_", "muon"))
        self._check_effect("optim", log_gradients=raw)
        self._check_effect("log_layers", log_gradients=self.log_gradients and self.log_layers)
        super().__post_init__()

    def _check_warmup(self, warmup: float | None, epochs: int | None) -> None:
        """Raise ValueError for a warm-up below 0 or longer than the run, as far as both are known."""
        self._check_least(0, "warmup_epochs")
        if warmup is not None and epochs is not None:
            self._check("warmup_epochs", warmup <= epochs, f"from 0 to {epochs} epochs")


WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar")


@dataclass(frozen=True, kw_only=True)
class BackboneOptions(RunOptions):
    """Which backbone is evaluated, on which images."""

    backbone_from: str = option(required=True, group="model and method", path=True, by_content=True)
    """Run folder, or weights file of ours, torchvision, timm, facebookresearch/barlowtwins, lightly or
    solo-learn; random: initial weights, drawn by seed."""
    backbone: str | None = option(None, group="model and method")
    """Backbone by name: resnet50, ..., or timm:NAME. Default: as the weights say."""
    stem: Literal["auto", "stock", "small", "solo_learn"] = option(
        "auto", group="model and method", rare=True
    )
    """First layers of torchvision's networks. solo_learn: its CIFAR networks, small and padded by 2.
    auto: as the weights say; needed for a small one where they do not."""
    weights_prefix: str | None = option(None, group="model and method", rare=True)
    """Beginning of the names in the weights file; needed where several networks in it fit."""
    crop_size: int | None = option(None, group="data", unit="pixels")
    """Side of the views. Default: as the backbone was pretrained; where the weights do not say, 224, or
    the images' own size where they are small. Small images are enlarged to it."""
    normalise: Literal["auto", "imagenet", "cifar10"] = option("auto", group="data", rare=True)
    """Mean and deviation of the channels. auto: as the backbone was pretrained; where the weights do
    not say, ImageNet's beyond 64 pixels, else CIFAR-10's."""
    train_percent: float | None = option(None, group="data", unit="percent")
    """Train on this share of the training images only, balanced over the classes and chosen by seed."""
    train_list: str | None = option(None, group="data", path=True, by_content=True)
    """Train on the images named in this file only, one file name a line (SimCLR's lists)."""
    mixed_precision: Literal["no", "fp16", "bf16"] = option("no", group="hardware")
    """Precision of the backbone; fp16 needs a GPU."""

    def __post_init__(self) -> None:
        self._check_least(1, "crop_size")
        percent = self.train_percent
        self._check("train_percent", percent is None or 0 < percent <= 100, "above 0, up to 100")
        chosen = [
            n for n in ("subset", "train_percent", "train_list") if getattr(self, n) is not None
        ]
        if len(chosen) > 1:
            raise ValueError(
                f"{chosen[0]}={getattr(self, chosen[0])!r} and {chosen[1]}={getattr(self, chosen[1])!r} "
                "both choose the training images; give one of them"
            )
        if self.backbone_from == GIVEN:
            self._check_effect(
                "backbone_from",
                backbone=self.backbone is not None,
                stem=self.stem != "auto",
                weights_prefix=self.weights_prefix is not None,
            )
        if self.backbone_from == "random":
            if self.backbone is None:
                raise ValueError("backbone_from='random' needs backbone, the name of a network")
            self._check_effect("backbone_from", weights_prefix=self.weights_prefix is not None)
        super().__post_init__()

    @property
    def source(self) -> str:
        """Short name of the backbone, for the name of a run folder."""
        if self.backbone_from == "random":
            return f"random-{str(self.backbone).replace(':', '-')}"
        path = Path(self.backbone_from).resolve()
        if path.name == "backbone.safetensors":
            return path.parent.name
        return path.stem if path.suffix in WEIGHTS_SUFFIXES else path.name


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(BackboneOptions):
    """Options of an evaluation of a backbone, which ends with a report."""

    pictures: bool = option(True, group="output", may_change=True, affects_result=False)
    """Draw a map of the features, the confusion matrix and nearest neighbours at the end."""
