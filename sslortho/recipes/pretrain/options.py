"""Options of `pretrain`."""

import functools
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any, ClassVar, Literal

from sslortho.augment.published_views import VIEW_NAMES
from sslortho.methods.options import METHOD_OPTIONS, options_of_method
from sslortho.options import GIVEN, Options, nearest, option
from sslortho.recipes.initial_options import InitialWeightsOptions
from sslortho.recipes.options import Stem, TrainingOptions

VIEWS = ("auto", *VIEW_NAMES)
"""Values of the option views."""


@dataclass(frozen=True, kw_only=True)
class PretrainOptions(InitialWeightsOptions, TrainingOptions):
    """Self-supervised pretraining. The defaults are the embedded digits, minutes on a CPU."""

    command: ClassVar[str] = "pretrain"

    method: str = option("barlow_twins", group="model and method")
    """Method: barlow_twins, simclr, vicreg, byol, simsiam, moco_v2, dino, lejepa or emp_ssl. Each has
    options and defaults of its own, shown by --help after it."""
    out: str | None = None
    """Run folder. Default: runs/{method}-{data}-{optim}-s{seed}."""

    validation: float | None = option(None, group="data")
    """Share of the training images (of the subset, if there is one) that is held out, balanced over the
    classes and chosen by seed; evaluations during training then use these, without labels by the loss.
    Default: none, and evaluations use the test images."""
    test: bool = option(True, group="output", rare=True)
    """Evaluate the test images at the end. false, with validation: never use them."""
    views: str = option("auto", group="data")
    """Views of each image: those of a method's paper, such as barlow_twins, and the same for small
    images (_small: no blur) and for handwriting (_digits). auto: the method's own; up to 64 pixels
    _digits for digits, else _small."""
    crop_size: int | None = option(None, group="data", unit="pixels", fitted=True)
    """Side of the views; of several sizes, of the largest. Default: 32, of smaller images their own side; of
    images from 96 pixels on 96, on a GPU 64 from 64 pixels on and 224 from 224 on; 32 for backbones that are
    made for small images."""
    backbone: str = option("resnet20", group="model and method")
    """Backbone by name: basic_cnn, resnet20, resnet18, resnet50, ..., or timm:NAME."""
    stem: Stem = option("auto", group="model and method", rare=True)
    """First layers of torchvision's networks. auto: as initial_weights have them; else small (3x3, no
    pooling) up to 64 pixels."""
    lr: float | None = option(  # pyright: ignore[reportIncompatibleVariableOverride]
        None, group="optimisation", unit="per 256 samples", fitted=True
    )
    """Learning rate of the weights; multiplied by batch_size / 256. Default: 6 for digits by lars, orth_lars;
    else by method, optimizer and number of steps, and said before the first step with its source."""
    usual_lr_biases: ClassVar[float] = 0.0048
    """Rate of biases and norms for LARS and SGD, per 256 samples, whatever the length; as
    facebookresearch/barlowtwins. Methods with another one have it in their own options."""
    lr_biases: float | None = option(
        None, group="optimisation", unit="per 256 samples", fitted=True
    )
    """Learning rate of biases and norms. Default: 0.0048; of Adam by method and number of steps, as lr. No
    effect on muon, which has adamw_lr."""
    orth_layers: Literal["conv", "all"] | None = option(None, group="optimisation", fitted=True)
    """Layers whose gradients orth_* and muon orthonormalise. Default all; of orth_lars conv, as in the paper
    for Barlow Twins."""

    batch_size: int | None = None
    """Samples of one optimizer step, over all ranks and accumulated batches together. Default: 128, or
    fewer where there are fewer images."""
    accumulation_steps: int = 1
    """Parts that a step's samples are cut into to save memory. Each part has its own batch norm
    statistics and loss, so this is not the same as one large batch."""
    epochs: int | None = option(None, group="optimisation", fitted=True)  # pyright: ignore[reportIncompatibleVariableOverride]
    """Passes over the data. Default: 13 for digits; on a CPU about 180,000 images, fewer for a large network,
    but 1 to 200 epochs; on a GPU 100 to 200 epochs."""
    warmup_epochs: float | None = option(  # pyright: ignore[reportIncompatibleVariableOverride]
        None, group="optimisation", unit="epochs", fitted=True
    )
    """Linear warm-up from 0 before the cosine. Default: 1 for digits, else a tenth of the run, at most 10."""
    mixed_precision: Literal["auto", "no", "fp16", "bf16"] | None = option(  # pyright: ignore[reportIncompatibleVariableOverride]
        None, group="hardware", fitted=True
    )
    """Precision of the network; fp16 needs a GPU. Default, and auto: bf16 on a GPU or a CPU that has it, else
    no; no for digits, and on a CPU for depthwise convolutions."""

    evaluate_every: int | None = option(  # pyright: ignore[reportIncompatibleVariableOverride]
        None, group="output", unit="epochs", affects_result=False, fitted=True
    )
    """Epochs between evaluations on the way: kNN where there are labels, and figures without; 0 for none.
    Default: 4 for digits, else ten evaluations, fewer in a short run."""
    knn_k: int = option(20, group="output", rare=True)
    """Neighbours of the kNN evaluation."""
    knn_temperature: float = option(0.07, group="output", rare=True)
    """Temperature of the kNN evaluation."""
    linear_probe: bool = option(True, group="output", rare=True)
    """Fit a linear probe on frozen features at the end. Each rank holds the features of its share of
    the training images meanwhile: 10.5 GB over all ranks for ImageNet and a ResNet-50."""

    def __post_init__(self) -> None:
        if not isinstance(self, self._options_of_method()):
            raise ValueError(
                f"method={self.method!r} has options that this class lacks; make them by "
                f"PretrainOptions.of(method={self.method!r}, ...)"
            )
        if self.views not in (*VIEWS, GIVEN):
            raise ValueError(
                f"views={self.views!r} is not one of {', '.join(VIEWS)}{nearest(self.views, VIEWS)}"
            )
        if self.mixed_precision == "auto":  # fitted, as where it is left out
            object.__setattr__(self, "mixed_precision", None)
        self._check_least(1, "crop_size", "knn_k")
        self._check_least(0, "lr_biases")
        # versions before wrote the usual rate into every config.yaml, of Muon too
        if self.optim == "muon" and self.lr_biases not in (
            type(self).lr_biases,
            self.usual_lr_biases,
        ):
            raise ValueError(
                f"lr_biases={self.lr_biases} has no effect on optim='muon', whose AdamW steps biases and "
                "norms; give adamw_lr"
            )
        share = self.validation
        self._check("validation", share is None or 0 < share < 1, "above 0 and below 1")
        if not self.test and share is None:
            raise ValueError(
                "test=False leaves nothing to evaluate; give validation, a share to hold out"
            )
        self._check("knn_temperature", self.knn_temperature > 0, "above 0")
        super().__post_init__()

    @classmethod
    def for_method(cls, method: str | None = None) -> type["PretrainOptions"]:
        """This class with the options and defaults of a method; by default of the class's own.

        Raises ValueError for an unknown name.
        """
        name, base = method or cls.method, cls.__dict__.get("without_method", cls)
        if name == GIVEN and base is not cls and cls.method == GIVEN:
            return cls  # of `for_own_method`
        return _with_options(base, name, options_of_method(name))

    @classmethod
    def for_own_method(cls, options: type[Options]) -> type["PretrainOptions"]:
        """This class with the options of a method that a Python caller hands over.

        Args:
            options: a frozen, keyword-only dataclass, or `Options` itself where it has none.
        """
        return _with_options(cls, GIVEN, options)

    def _options_of_method(self) -> type[Options]:
        own = type(self).__dict__.get("options_of_own")
        return own if own and self.method == GIVEN else options_of_method(self.method)

    @classmethod
    def of(cls, **options: Any) -> "PretrainOptions":
        """Options from any of them, the method's own too."""
        return cls.for_method(options.get("method"))(**options)

    @staticmethod
    def methods_with(wanted: str) -> list[str]:
        """Names of the methods that have an option of this name."""
        return [
            name
            for name, known in METHOD_OPTIONS.items()
            if wanted in {f.name for f in fields(known)}  # pyright: ignore[reportArgumentType]
        ]

    @property
    def default_folder(self) -> str:
        return f"runs/{self.method}-{self.data_name}-{self.optim}-s{self.seed}"


@functools.cache
def _with_options(
    base: type[PretrainOptions], method: str, options: type[Options]
) -> type[PretrainOptions]:
    """The class `base` with the fields of `options`; `Options` itself has none."""
    return make_dataclass(
        base.__name__,
        [("method", str, field(default=method))],
        bases=(base,) if options is Options else (options, base),
        namespace={
            "__doc__": base.__doc__,
            "__module__": base.__module__,
            "without_method": base,
            "options_of_own": options if method == GIVEN else None,
        },
        frozen=True,
        kw_only=True,
    )
