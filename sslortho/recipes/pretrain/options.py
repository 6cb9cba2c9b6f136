"""What pretraining can be told."""

import difflib
import functools
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, Literal

from sslortho.recipes.options import TrainingOptions
from sslortho.methods.registry import METHODS, load_method

VIEWS = ("auto", *(name + size for name in METHODS for size in ("", "_small", "_digits")))


@dataclass(frozen=True, kw_only=True)
class PretrainOptions(TrainingOptions):
    """Self-supervised pretraining. The defaults are the embedded digits, minutes on a CPU."""

    method: str = "barlow_twins"
    """Which method, of those in sslortho/tasks/methods.py: barlow_twins, simclr, vicreg, byol and others.
    Each has options and defaults of its own, shown by --help after it."""
    out: str | None = None
    """Run folder. Default: runs/{method}-{data}-{optim}-s{seed}."""

    views: str = "auto"
    """Views of each image: those that a method's paper gives, such as barlow_twins, and the same for
    small images (_small: no blur) and for handwriting (_digits). auto: the method's own; up to 64 pixels
    _digits for digits, else _small."""
    crop_size: int = 32
    """Side of the views in pixels; of several sizes, of the largest."""
    backbone: str = "resnet20"
    """Backbone by name: basic_cnn, resnet20, resnet18, resnet50, ..., or timm:NAME."""
    stem: Literal["auto", "stock", "small"] = "auto"
    """First layers of torchvision's networks. auto: small (3x3, no pooling) up to 64 pixels."""
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
    statistics and loss, so this is not the same as one large batch."""
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
        method = load_method(self.method)
        if not isinstance(self, method.Options):
            raise ValueError(
                f"method={self.method!r} has options that this configuration lacks; make it by "
                f"PretrainOptions.of(method={self.method!r}, ...)"
            )
        method.check(self)
        if self.views not in VIEWS:
            near = difflib.get_close_matches(self.views, VIEWS, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"views={self.views!r} is not one of {', '.join(VIEWS)}{hint}")
        self._check_least(1, "crop_size", "knn_k")
        self._check_least(0, "lr_biases")
        self._check("knn_temperature", self.knn_temperature > 0, "above 0")

    @classmethod
    def for_method(cls, method: str | None = None) -> type["PretrainOptions"]:
        """This class with the options and the defaults of a method of `sslortho.methods.registry`; by default
        of the class's own.

        Raises ValueError for an unknown name.
        """
        return _with_options(cls.__dict__.get("without_method", cls), method or cls.method)

    @classmethod
    def of(cls, **options: Any) -> "PretrainOptions":
        """A configuration from any of the options, the method's own too."""
        return cls.for_method(options.get("method"))(**options)

    @staticmethod
    def methods_with(option: str) -> list[str]:
        """Names of the methods that have an option of this name."""
        methods = {name: fields(load_method(name).Options) for name in METHODS}
        return [name for name, known in methods.items() if option in {f.name for f in known}]

    @property
    def run_folder(self) -> Path:
        """Where the run lives."""
        return Path(self.out or f"runs/{self.method}-{self.data}-{self.optim}-s{self.seed}")


@functools.cache
def _with_options(base: type[PretrainOptions], method: str) -> type[PretrainOptions]:
    return make_dataclass(
        base.__name__,
        [("method", str, field(default=method))],
        bases=(load_method(method).Options, base),
        namespace={"__doc__": base.__doc__, "__module__": base.__module__, "without_method": base},
        frozen=True,
        kw_only=True,
    )
