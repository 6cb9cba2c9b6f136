"""Options of every method, beside those of any pretraining. Imports neither torch nor lightly.

A field that any pretraining has gives this method's own default. `usual_lr_biases` is the rate of biases and
norms, per 256 samples, where the optimizer is none of Adam's kind.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from sslortho.options import GIVEN, Options, nearest


def read_widths(projector: str, *names: str) -> list[int]:
    """Widths of a projector's layers from text: "2048-128" for hidden and output layer, say.

    Raises ValueError unless there is one width for each of `names`.
    """
    if not re.fullmatch(r"[1-9]\d*(-[1-9]\d*)*", projector):
        raise ValueError(
            f"projector={projector!r} must be widths joined by dashes, such as 2048-128"
        )
    widths = [int(width) for width in projector.split("-")]
    if names and len(widths) != len(names):
        raise ValueError(
            f"projector={projector!r} must be {len(names)} widths joined by dashes: {', '.join(names)}"
        )
    return widths


@dataclass(frozen=True, kw_only=True)
class BarlowTwinsOptions(Options):
    """Options of Barlow Twins."""

    projector: str = "512-512-512"
    """Widths of the projector's layers. The paper's, for ResNet-50: 8192-8192-8192."""
    lambda_param: float = 0.0051
    """Weight of the redundancy term; 0.0051 as in facebookresearch/barlowtwins."""

    def __post_init__(self) -> None:
        if self.projector != GIVEN:
            read_widths(self.projector)
        self._check("lambda_param", self.lambda_param >= 0, "0 or more")
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class SimCLROptions(Options):
    """Options of SimCLR."""

    projector: str = "512-128"
    """Widths of the projector's hidden and output layer. The paper's, for ResNet-50: 2048-128."""
    temperature: float = 0.5
    """Temperature of the similarities; 0.5 as in the paper for CIFAR-10, 0.1 for 100 epochs of
    ImageNet."""
    usual_lr_biases: ClassVar[float] = 0.3
    lr_biases: float | None = None
    """Learning rate of biases and norms. Default: 0.3, the paper's, for ImageNet (section 2.2); of Adam by
    method and number of steps, as lr. The loss of the authors' code is twice that of the paper, which is
    ours."""

    def __post_init__(self) -> None:
        if self.projector != GIVEN:
            read_widths(self.projector, "hidden layer", "output")
        self._check("temperature", self.temperature > 0, "above 0")
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class VICRegOptions(Options):
    """Options of VICReg."""

    projector: str = "512-512-512"
    """Widths of the projector's layers, hidden ones of one width. The paper's, for ResNet-50:
    8192-8192-8192."""
    invariance: float = 25.0
    """Weight of the distance between the views; this and the next two are the paper's."""
    variance: float = 25.0
    """Weight of the hinge loss that keeps the deviation of each dimension at 1."""
    covariance: float = 1.0
    """Weight of the covariances between dimensions."""
    usual_lr_biases: ClassVar[float] = 0.2
    lr_biases: float | None = None
    """Learning rate of biases and norms. Default: 0.2, the paper's, for ImageNet; of Adam by method and number
    of steps, as lr."""

    def __post_init__(self) -> None:
        for name in ("invariance", "variance", "covariance"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        if self.projector != GIVEN:
            *hidden, _ = read_widths(self.projector)
            wanted = "one or more hidden layers of one width, and the output, such as 512-512-512"
            self._check("projector", len(set(hidden)) == 1, wanted)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class BYOLOptions(Options):
    """Options of BYOL."""

    projector: str = "512-128"
    """Widths of the hidden and the output layer of projector and predictor. The paper's, for
    ResNet-50: 4096-256."""
    teacher_momentum: float = 0.996
    """Momentum of the teacher's moving average at the start; it rises to 1 by a cosine (section 3.3).
    0.996 is for 1,000 epochs of ImageNet; the paper takes 0.99 for 300."""
    usual_lr_biases: ClassVar[float] = 0.2
    lr_biases: float | None = None
    """Learning rate of biases and norms. Default: 0.2, the paper's, for ImageNet, whose loss is four times
    ours; of Adam by method and number of steps, as lr."""
    weight_decay: float = 1.5e-6
    """Decay of the weights; biases and norms have none. The paper's."""

    def __post_init__(self) -> None:
        self._check("teacher_momentum", 0 <= self.teacher_momentum <= 1, "from 0 to 1")
        if self.projector != GIVEN:
            read_widths(self.projector, "hidden layer", "output")
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class SimSiamOptions(Options):
    """Options of SimSiam."""

    projector: str = "512-512-512"
    """Widths of the projector's three layers, all the same. The paper's, for ResNet-50: 2048-2048-2048;
    the predictor's hidden layer has a quarter of it."""
    usual_lr_biases: ClassVar[float] = 0.05
    lr_biases: float | None = None
    """Learning rate of biases and norms. Default: 0.05, the paper's, of SGD; of Adam by method and number of
    steps, as lr."""

    def __post_init__(self) -> None:
        if self.projector != GIVEN:
            widths = read_widths(self.projector, "first layer", "second layer", "output")
            equal = len(set(widths)) == 1 and widths[0] >= 4
            self._check("projector", equal, "three widths that are equal, 4 or more")
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class MoCoV2Options(Options):
    """Options of MoCo v2."""

    projector: str = "512-128"
    """Widths of the projector's hidden and output layer. The paper's, for ResNet-50: 2048-128."""
    temperature: float = 0.2
    """Temperature of the similarities; the paper's."""
    teacher_momentum: float = 0.99
    """Momentum of the moving average that encodes the keys. The paper's 0.999 is for 200 epochs of
    ImageNet."""
    queue: int = 1024
    """Number of keys from earlier batches that serve as negatives. The paper's: 65536."""
    usual_lr_biases: ClassVar[float] = 0.03
    lr_biases: float | None = None
    """Learning rate of biases and norms. Default: 0.03, the paper's, of SGD; of Adam by method and number of
    steps, as lr."""

    def __post_init__(self) -> None:
        self._check("teacher_momentum", 0 <= self.teacher_momentum <= 1, "from 0 to 1")
        self._check("queue", self.queue >= 1, "1 key or more")
        self._check("temperature", self.temperature > 0, "above 0")
        if self.projector != GIVEN:
            read_widths(self.projector, "hidden layer", "output")
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class DINOOptions(Options):
    """Options of DINO."""

    projector: str = "512-128-1024"
    """Widths of two hidden layers, the bottleneck and the output. The paper's: 2048-256-65536."""
    teacher_momentum: float = 0.99
    """Momentum of the teacher's moving average at the start; it rises to 1 by a cosine. The paper's:
    0.996."""
    teacher_temperature: float = 0.04
    """Temperature of the teacher's outputs; the paper lets it rise to 0.07 in longer trainings."""
    freeze_output_epochs: int = 1
    """Epochs at the start in which the output layer does not learn."""
    usual_lr_biases: ClassVar[float] = 0.05
    lr_biases: float | None = None
    """Learning rate of biases and norms. Default: 0.05; of Adam by method and number of steps, as lr."""

    def __post_init__(self) -> None:
        self._check("teacher_momentum", 0 <= self.teacher_momentum <= 1, "from 0 to 1")
        self._check("teacher_temperature", self.teacher_temperature > 0, "above 0")
        self._check("freeze_output_epochs", self.freeze_output_epochs >= 0, "0 or more")
        if self.projector == GIVEN:
            raise ValueError(
                "projector: dino takes none of one's own, since it freezes the last layer of its own at "
                "first; leave it out, or give its widths"
            )
        read_widths(self.projector, "hidden layers", "bottleneck", "output")
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class LeJEPAOptions(Options):
    """Options of LeJEPA."""

    projector: str = "512-512-64"
    """Widths of the projector's layers. The authors', for vision transformers: 2048-2048-512."""
    lambda_param: float = 0.05
    """Weight of SIGReg; that of the distance between views is the rest of 1. The paper's, the only trade-off
    that it has."""
    slices: int = 256
    """Random directions of a step in which projections are compared with a Gaussian. The paper's, for
    ImageNet: 1024."""
    usual_lr_biases: ClassVar[float] = 0.5
    lr_biases: float | None = None
    """Learning rate of biases and norms. Default: 0.5; of Adam by method and number of steps, as lr."""

    def __post_init__(self) -> None:
        self._check("lambda_param", 0 <= self.lambda_param <= 1, "from 0 to 1")
        self._check("slices", self.slices >= 1, "1 or more")
        if self.projector != GIVEN:
            read_widths(self.projector)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class EMPSSLOptions(Options):
    """Options of EMP-SSL."""

    projector: str = "512-512-128"
    """Widths of the projector's layers. The authors', for ResNet-18: 4096-4096-1024."""
    similarity: float = 200.0
    """Weight of the cosines between the crops of an image and their mean; this and the next two are the
    paper's."""
    coding_rate: float = 1.0
    """Weight of the total coding rate, which spreads the images of a batch."""
    eps: float = 0.2
    """Squared distortion up to which the coding rate codes samples."""
    usual_lr_biases: ClassVar[float] = 0.05
    lr_biases: float | None = None
    """Learning rate of biases and norms. Default: 0.05; of Adam by method and number of steps, as lr."""

    def __post_init__(self) -> None:
        for name in ("similarity", "coding_rate"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        self._check("eps", self.eps > 0, "above 0")
        if self.projector != GIVEN:
            read_widths(self.projector)
        super().__post_init__()


METHOD_OPTIONS: dict[str, type[Options]] = {
    "barlow_twins": BarlowTwinsOptions,
    "simclr": SimCLROptions,
    "vicreg": VICRegOptions,
    "byol": BYOLOptions,
    "simsiam": SimSiamOptions,
    "moco_v2": MoCoV2Options,
    "dino": DINOOptions,
    "lejepa": LeJEPAOptions,
    "emp_ssl": EMPSSLOptions,
}
"""Name of every method, which is that of its file too, to its options."""


def options_of_method(name: str) -> type[Options]:
    """Options class of a method. Raises ValueError for an unknown name."""
    if name == GIVEN:
        raise ValueError(
            f"method={GIVEN!r} stands for a class that is handed over in Python; call "
            "sslortho.pretrain(method=CLASS)"
        )
    if name not in METHOD_OPTIONS:
        known = ", ".join(METHOD_OPTIONS)
        raise ValueError(f"method={name!r} is not one of {known}{nearest(name, METHOD_OPTIONS)}")
    return METHOD_OPTIONS[name]
