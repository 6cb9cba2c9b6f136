"""Options of `supervised`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from sslortho.options import option
from sslortho.recipes.initial_options import InitialWeightsOptions
from sslortho.recipes.options import Stem, TrainingOptions


@dataclass(frozen=True, kw_only=True)
class SupervisedOptions(InitialWeightsOptions, TrainingOptions):
    """Supervised classification from scratch, or from weights. The defaults are the embedded digits, a
    minute on a CPU; configs/paper has the settings of arXiv 2202.07052."""

    command: ClassVar[str] = "supervised"

    out: str | None = None
    """Run folder. Default: runs/supervised-{data}-{backbone}-{optim}-s{seed}."""
    validation: float | None = option(None, group="data")
    """Share of the training images (of the subset, if there is one) that is held out, balanced over the
    classes and chosen by seed; evaluations during training then use these. Default: none, and
    evaluations use the test images."""
    test: bool = option(True, group="output", rare=True)
    """Evaluate the test images at the end. false, with validation: never use them."""
    pictures: bool = option(True, group="output", may_change=True, affects_result=False)
    """Draw a map of the features, the confusion matrix and nearest neighbours at the end."""

    views: Literal["auto", "supervised", "supervised_small", "supervised_digits", "centre"] = (
        option("auto", group="data")
    )
    """Training view. supervised: random resized crop and flip. supervised_small: padded by an eighth,
    random crop and flip. supervised_digits: mild crops, no flip. centre: nothing random. auto: by data
    and size."""
    crop_size: int | None = option(None, group="data", unit="pixels")
    """Side of the views. Default: the images' own size where they are small, else 224."""
    backbone: str = option("resnet20", group="model and method")
    """Backbone by name: basic_cnn, resnet20, resnet20_postact, resnet18, densenet121, vit_small_32, ...,
    or timm:NAME."""
    stem: Stem = option("auto", group="model and method", rare=True)
    """First layers of torchvision's networks. auto: small (3x3, no pooling) up to 64 pixels. stock: as
    for ImageNet, and in arXiv 2202.07052 for CIFAR-10 too."""
    head_classes: int | None = option(None, group="model and method", rare=True)
    """Outputs of the classifier. Default: the number of classes. The authors' code of arXiv 2202.07052
    leaves torchvision's networks their 1000."""
    label_smoothing: float = option(0.0, group="optimisation")
    """Share of the target that training spreads evenly over all classes."""

    optim: str = "orth_sgd"
    """sgd, adam, adamw, lars, each also with orth_ in front, muon, norm_sgd or component_norm_sgd."""
    lr: float = option(0.01, group="optimisation", unit="absolute")
    """Learning rate of all parameters, of muon of what it orthonormalises: the rest has adamw_lr. Not scaled
    by the batch size."""
    weight_decay: float = 5e-4
    """Decay of the weights."""
    weight_decay_biases: float = option(0.0, group="optimisation", rare=True)
    """Decay of biases and norms. Has no effect on lars, which exempts them."""
    orth_layers: Literal["conv", "all"] | None = None
    """Layers whose gradients orth_* and muon orthonormalise. Default all."""

    batch_size: int | None = None
    """Samples of one optimizer step, over all ranks and accumulated batches together. Default: 128, or
    fewer where there are fewer images."""
    epochs: int = 10
    """Passes over the data."""
    schedule: Literal["constant", "cosine", "multi_step"] = option("cosine", group="optimisation")
    """Learning rate after the warm-up. cosine: down to 0. constant: as most of arXiv 2202.07052.
    multi_step: multiplied by gamma at each milestone."""
    milestones: list[float] | None = option(None, group="optimisation", unit="epochs")
    """Times at which schedule multi_step multiplies the rate by gamma."""
    gamma: float | None = option(None, group="optimisation", rare=True)
    """Factor of schedule multi_step. Default 0.1."""

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
        self._check_schedule()
        self._check_effect(
            "optim", weight_decay_biases=self.weight_decay_biases > 0 and "lars" in self.optim
        )
        super().__post_init__()

    def _check_schedule(self) -> None:
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

    @property
    def backbone_slug(self) -> str:
        """Name of the backbone as part of a folder's name."""
        return self.backbone.replace(":", "-").replace("/", "-")

    @property
    def default_folder(self) -> str:
        return f"runs/supervised-{self.data_name}-{self.backbone_slug}-{self.optim}-s{self.seed}"
