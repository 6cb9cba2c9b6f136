"""What pretraining can be told."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sslortho.config.bases import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainingConfig):
    """Self-supervised pretraining. The defaults are the embedded digits, minutes on a CPU."""

    method: Literal["barlow_twins"] = "barlow_twins"
    """What is learned."""
    out: str | None = None
    """Run folder. Default: runs/{method}-{data}-{optim}-s{seed}."""

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

    lr: float = 6.0
    """Rate of the weights per 256 samples: multiplied by batch_size / 256. The default is for the
    digits' 143 steps; facebookresearch/barlowtwins takes 0.2 for 300 epochs of ImageNet."""
    lr_biases: float = 0.0048
    """Rate of biases and norms per 256 samples."""
    orth_layers: Literal["conv", "all"] | None = None
    """Whose gradients orth_* orthonormalises. Default conv, as the paper for Barlow Twins."""

    batch_size: int = 128
    """Samples of one optimizer step, over all ranks and accumulated batches together."""
    accumulation_steps: int = 1
    """Parts that a step's samples are cut into to save memory. Each part has its own batch norm
    statistics and correlation matrix, so this is not the same as one large batch."""
    epochs: int = 13
    """Passes over the data."""
    warmup_epochs: float = 1
    """Linear warm-up from 0 before the cosine."""

    evaluate_every: int = 2
    """Epochs between online kNN evaluations; 0 for none."""
    knn_k: int = 20
    """Neighbours of the kNN evaluation."""
    knn_temperature: float = 0.07
    """Temperature of the kNN evaluation."""
    linear_probe: bool = True
    """Fit a linear probe on frozen features at the end. Each rank holds the features of its share of
    the training images meanwhile: 10.5 GB over all ranks for ImageNet and a ResNet-50."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_least(1, "crop_size", "knn_k")
        self._check_least(0, "lr_biases", "lambda_param")
        self._check("knn_temperature", self.knn_temperature > 0, "above 0")
        self._check("projector", bool(re.fullmatch(r"[1-9]\d*(-[1-9]\d*)*", self.projector)),
                    "widths joined by dashes, such as 2048-2048-2048")  # fmt: skip

    @property
    def projector_widths(self) -> tuple[int, ...]:
        """`projector` as numbers."""
        return tuple(int(width) for width in self.projector.split("-"))

    @property
    def run_folder(self) -> Path:
        """Where the run lives."""
        return Path(self.out or f"runs/{self.method}-{self.data}-{self.optim}-s{self.seed}")
