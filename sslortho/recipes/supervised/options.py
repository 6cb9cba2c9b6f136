"""What supervised.py can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sslortho.recipes.options import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class SupervisedOptions(TrainingOptions):
    """Supervised classification from scratch. The defaults are the embedded digits, a minute on a CPU;
    configs/paper has the settings of arXiv 2202.07052."""

    out: str | None = None
    """Run folder. Default: runs/supervised-{data}-{backbone}-{optim}-s{seed}."""
    validation: float | None = None
    """Share of the training images (of the subset, if there is one) held out, balanced over the classes
    and chosen by seed; evaluations on the way are then of these. Default: none, and evaluations are of
    the test images."""
    test: bool = True
    """Evaluate the test images at the end. false, with validation: never look at them."""
    pictures: bool = True
    """Draw a map of the features, the confusion matrix and nearest neighbours at the end."""

    views: Literal["auto", "supervised", "supervised_small", "supervised_digits", "centre"] = "auto"
    """Training view. supervised: random resized crop and flip. supervised_small: padded by an eighth,
    random crop and flip. supervised_digits: mild crops, no flip. centre: nothing random. auto: by data
    and size."""
    crop_size: int | None = None
    """Side of the views in pixels. Default: the images' own size where they are small, else 224."""
    backbone: str = "resnet20"
    """Backbone by name: basic_cnn, resnet20, resnet20_postact, resnet18, densenet121, vit_small_32, ...,
    or timm:NAME."""
    stem: Literal["auto", "stock", "small"] = "auto"
    """First layers of torchvision's networks. auto: small (3x3, no pooling) up to 64 pixels. stock: as
    for ImageNet, and in arXiv 2202.07052 for CIFAR-10 too."""
    head_classes: int | None = None
    """Outputs of the classifier. Default: the classes. The authors' code of arXiv 2202.07052 leaves
    torchvision's networks their 1000."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes, in training."""

    optim: str = "orth_sgd"
    """sgd, adam, adamw, lars, each also with orth_ in front, norm_sgd or component_norm_sgd."""
    lr: float = 0.01
    """Rate of all parameters, absolute."""
    weight_decay: float = 5e-4
    """Decay of the weights."""
    weight_decay_biases: float = 0.0
    """Decay of biases and norms. Not of lars, which exempts them."""
    orth_layers: Literal["conv", "all"] | None = None
    """Whose gradients orth_* orthonormalises. Default all."""

    batch_size: int = 128
    """Samples of one optimizer step, over all ranks and accumulated batches together."""
    epochs: int = 10
    """Passes over the data."""
    schedule: Literal["constant", "cosine", "multi_step"] = "cosine"
    """Of the rate, after the warm-up. cosine: to 0. constant: as most of arXiv 2202.07052."""
    milestones: list[float] | None = None
    """Of schedule multi_step: epochs after which the rate is multiplied by gamma."""
    gamma: float | None = None
    """Of schedule multi_step. Default 0.1."""

    def __post_init__(self) -> None:
        self._check_least(1, "crop_size", "head_classes")
        self._check_least(0, "weight_decay_biases")
        share = self.validation
        self._check("validation", share is None or 0 < share < 1, "above 0 and below 1")
        self._check("label_smoothing", 0 <= self.label_smoothing < 1, "from 0 to below 1")
        self._check("gamma", self.gamma is None or self.gamma > 0, "above 0")
        if not self.test and share is None:
            raise ValueError(
                "test=False leaves nothing to evaluate; give validation, a share to hold out"
            )
        stepped = self.schedule == "multi_step"
        if stepped and not self.milestones:
            raise ValueError("schedule='multi_step' needs milestones, such as [100, 150] (epochs)")
        self._check_effect(
            "schedule",
            milestones=not stepped and self.milestones is not None,
            gamma=not stepped and self.gamma is not None,
        )
        epochs = self.milestones or []
        rising = sorted(set(epochs)) == epochs and all(0 < e < self.epochs for e in epochs)
        self._check("milestones", rising, f"rising epochs between 0 and {self.epochs}")
        self._check_effect(
            "optim", weight_decay_biases=self.weight_decay_biases > 0 and "lars" in self.optim
        )
        super().__post_init__()

    @property
    def backbone_slug(self) -> str:
        """The backbone's name, fit for a folder's."""
        return self.backbone.replace(":", "-").replace("/", "-")

    @property
    def run_folder(self) -> Path:
        """Where the run lives."""
        name = f"supervised-{self.data}-{self.backbone_slug}-{self.optim}-s{self.seed}"
        return Path(self.out or f"runs/{name}")
