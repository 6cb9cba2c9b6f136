"""What the training loop asks of a task, and what it asks of a method of pretraining."""

import re
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sslortho.augment.views import ViewSpec, small


class Task(nn.Module):
    """A model and its loss.

    `task(views, labels)` takes the tensors of a `Batch` and returns {"loss": scalar, name: scalar,
    ...}; what is not the loss is only logged.
    """

    backbone: nn.Module
    """Evaluated and exported: images (batch, 3, height, width) to features (batch, dim)."""

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        raise TypeError(f"{type(self).__name__} does not say what a batch means")

    def before_step(self, step: int, epoch: int, total_steps: int) -> None:
        """What depends on how far training is, a momentum, say; steps and epochs from 0, before each
        step. A function of its arguments alone, so that a resumed run goes on the same."""

    def after_backward(self) -> None:
        """What is done to the gradients before the optimizer sees them. Nothing by default."""

    def after_step(self) -> None:
        """What follows an optimizer step; a moving average, say. Nothing by default."""


class Method(Task):
    """A way of self-supervised pretraining; `sslortho.methods.registry` lists them.

    Args:
        backbone: images (batch, 3, height, width) to features (batch, dim).
        dim: the number of features.
        options: an instance of `Options`.

    Raises ValueError as `check`.
    """

    Options: ClassVar[type[Any]]
    """Frozen, keyword-only dataclass of what the method can be told beside what any pretraining can.
    A field that any pretraining has gives this method's own default."""

    def __init__(self, backbone: nn.Module, dim: int, options: Any) -> None:
        super().__init__()
        self.check(options)
        self.backbone = backbone

    @staticmethod
    def check(options: Any) -> None:
        """Raise ValueError for options that cannot be."""

    @staticmethod
    def takes(views: int) -> bool:
        """Whether a batch may have so many views of each image."""
        return views == 2

    @classmethod
    def views(cls, crop_size: int = 224) -> tuple[ViewSpec, ...]:
        """The published views of photographs; the first is of `crop_size` pixels."""
        raise TypeError(f"{cls.__name__} does not say what its views are")

    @classmethod
    def small_views(cls, crop_size: int = 32) -> tuple[ViewSpec, ...]:
        """Those of images of CIFAR's size."""
        return small(cls.views(), crop_size)


def require(options: Any, name: str, holds: bool, wanted: str) -> None:
    """Raise ValueError that names an option, its value and what it must be, unless that holds."""
    if not holds:
        raise ValueError(f"{name}={getattr(options, name)!r} must be {wanted}")


def read_widths(projector: str, *names: str) -> list[int]:
    """Widths of a projector's layers, "2048-128" for hidden and output layer, say.

    Raises ValueError unless there is one for each of `names`.
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


def in_float32(loss: nn.Module, *projections: Tensor) -> Tensor:
    """A loss of projections, computed in float32 whatever precision made them."""
    with torch.autocast(projections[0].device.type, enabled=False):
        return loss(*(z.float() for z in projections))


def spread(z: Tensor) -> Tensor:
    """How far apart projections (batch, dim) lie on the sphere: 1 if everywhere, 0 if collapsed.

    Standard deviation of each dimension of z / |z|, averaged, times sqrt(dim); arXiv 2011.10566,
    section 4.1.
    """
    unit = nn.functional.normalize(z.detach().float(), dim=1)
    return unit.std(dim=0).mean() * z.shape[1] ** 0.5
