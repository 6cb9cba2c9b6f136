"""What linear_eval.py and knn_eval.py can be told."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from sslortho.recipes.options import DataOptions, LoopOptions, OptimizerOptions, TrainingOptions

WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar")


@dataclass(frozen=True, kw_only=True)
class BackboneOptions(DataOptions):
    """Whose features, of which images."""

    backbone_from: str
    """Run folder, or weights file of ours, torchvision, timm, facebookresearch/barlowtwins, lightly or
    solo-learn; random: initial weights, drawn by seed."""
    backbone: str | None = None
    """Backbone by name: resnet50, ..., or timm:NAME. Default: what the weights are of."""
    stem: Literal["auto", "stock", "small", "solo_learn"] = "auto"
    """First layers of torchvision's networks. solo_learn: its CIFAR networks, small and padded by 2.
    auto: what the weights are of."""
    weights_prefix: str | None = None
    """Names in the weights file begin with it; needed where several networks in it fit."""
    crop_size: int | None = None
    """Side of the views in pixels. Default: as the backbone was pretrained; where the weights do not
    say, 224, or the images' own size where they are small. Small images are enlarged to it."""
    normalise: Literal["auto", "imagenet", "cifar10"] = "auto"
    """Mean and deviation of the channels. auto: as the backbone was pretrained; where the weights do
    not say, ImageNet's beyond 64 pixels, else CIFAR-10's."""
    train_percent: float | None = None
    """Train on this share of the training images only, balanced over the classes and chosen by seed."""
    train_list: str | None = None
    """Train on the images named in this file only, one file name a line (SimCLR's lists)."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Of the backbone; fp16 needs a GPU."""
    pictures: bool = True
    """Draw a map of the features, the confusion matrix and nearest neighbours at the end."""

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
        if self.backbone_from == "random":
            if self.backbone is None:
                raise ValueError("backbone_from='random' needs backbone, the name of a network")
            self._check_effect("backbone_from", weights_prefix=self.weights_prefix is not None)
        super().__post_init__()

    @property
    def source(self) -> str:
        """Short name of the backbone, for a run folder."""
        if self.backbone_from == "random":
            return f"random-{str(self.backbone).replace(':', '-')}"
        path = Path(self.backbone_from).expanduser().resolve()
        if path.name == "backbone.safetensors":
            return path.parent.name
        return path.stem if path.suffix in WEIGHTS_SUFFIXES else path.name


LOOP_OPTIONS = {f.name for base in (LoopOptions, OptimizerOptions) for f in fields(base)} - {
    "mixed_precision"
}


@dataclass(frozen=True, kw_only=True)
class LinearEvalOptions(TrainingOptions, BackboneOptions):
    """Linear evaluation or fine-tuning of a backbone.

    The defaults are the published linear evaluation (facebookresearch/barlowtwins, evaluate.py), but for
    bicubic crops, a cosine by step and not by epoch, and biases without decay.
    """

    protocol: Literal["sgd", "lbfgs"] = "sgd"
    """sgd: a linear classifier trained on random crops, as published. lbfgs: a logistic regression
    fitted to its optimum on features extracted once; minutes, but not the published protocol."""
    weights: Literal["freeze", "finetune"] = "freeze"
    """freeze: the backbone stays as it is, in evaluation mode. finetune: it is trained too."""
    out: str | None = None
    """Run folder. Default: runs/linear-{data}-{backbone_from}-s{seed}, or finetune-, lbfgs-."""

    views: Literal["auto", "supervised", "supervised_digits", "centre"] = "auto"
    """Training views of protocol sgd. supervised: random crop and flip. supervised_digits: milder
    crops, no flip. centre: the largest square, nothing random. auto: by data."""
    optim: str = "sgd"
    """sgd, adam, adamw, lars, each also with orth_ in front, norm_sgd or component_norm_sgd."""
    lr: float = 0.3
    """Rate of the classifier per 256 samples: multiplied by batch_size / 256."""
    lr_backbone: float | None = None
    """Rate of the backbone per 256 samples, with weights finetune; default 0.005."""
    orth_layers: Literal["conv", "all"] | None = None
    """Whose gradients orth_* orthonormalises. Default all."""

    batch_size: int = 256
    """Samples of one optimizer step, over all ranks and accumulated batches together."""
    epochs: int = 100
    """Passes over the data."""

    l2: float | None = None
    """Of protocol lbfgs: weight of half the squared norm of the classifier, beside the mean
    cross-entropy. Default: chosen on held-out training images."""
    held_out: float | None = None
    """Of protocol lbfgs: share of the training images that l2 is chosen on. Default 0.1."""

    def __post_init__(self) -> None:
        self._check_least(0, "lr_backbone")
        self._check("l2", self.l2 is None or self.l2 > 0, "above 0")
        share = self.held_out
        self._check("held_out", share is None or 0 < share < 1, "between 0 and 1")
        fast = self.protocol == "lbfgs"
        if fast and self.weights == "finetune":
            raise ValueError("weights='finetune' has no effect on protocol='lbfgs'; leave one out")
        self._check_effect(
            "protocol",
            l2=not fast and self.l2 is not None,
            held_out=not fast and self.held_out is not None,
            views=fast and self.views != "auto",
        )
        self._check_effect(
            "weights", lr_backbone=self.weights == "freeze" and self.lr_backbone is not None
        )
        self._check_effect("l2", held_out=self.l2 is not None and self.held_out is not None)
        super().__post_init__()

    @property
    def without_effect(self) -> list[str]:
        """Options that were given and that protocol lbfgs, which has no loop, does not look at."""
        if self.protocol == "sgd":
            return []
        loop = {f.name: f.default for f in fields(type(self)) if f.name in LOOP_OPTIONS}
        return [name for name, default in loop.items() if getattr(self, name) != default]

    @property
    def run_folder(self) -> Path:
        """Where the run lives."""
        kind = "lbfgs" if self.protocol == "lbfgs" else "linear"
        kind = "finetune" if self.weights == "finetune" else kind
        return Path(self.out or f"runs/{kind}-{self.data}-{self.source}-s{self.seed}")


@dataclass(frozen=True, kw_only=True)
class KnnEvalOptions(BackboneOptions):
    """Weighted nearest neighbours on the features of a frozen backbone."""

    preset: Literal["dino", "lightly"] | None = None
    """dino: 20 neighbours, temperature 0.07. lightly: 200, 0.1. Default dino."""
    k: int | None = None
    """Neighbours. Default: the preset's."""
    temperature: float | None = None
    """Each neighbour votes with exp(cosine / temperature). Default: the preset's."""
    out: str | None = None
    """Run folder. Default: runs/knn-{data}-{backbone_from}-s{seed}."""

    def __post_init__(self) -> None:
        self._check_least(1, "k")
        self._check("temperature", self.temperature is None or self.temperature > 0, "above 0")
        if None not in (self.preset, self.k, self.temperature):
            raise ValueError(f"preset={self.preset!r} has no effect beside k and temperature")
        super().__post_init__()

    @property
    def run_folder(self) -> Path:
        """Where the run lives."""
        return Path(self.out or f"runs/knn-{self.data}-{self.source}-s{self.seed}")
