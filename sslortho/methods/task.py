"""Interfaces: of a task to the training loop, and of a method of pretraining to the recipe."""

import importlib
from collections.abc import Collection
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sslortho.models.backbones import BackboneSettings, feature_dim
from sslortho.optim.precision import HALF_PRECISION, in_float32


class Task(nn.Module):
    """Model and loss.

    `task(views, labels)` takes the tensors of a `Batch`: views, each (batch, channels, height, width),
    and labels (batch,). It returns {"loss": scalar, name: scalar, ...}; all but the loss is only logged.
    """

    backbone: nn.Module
    """The network that is evaluated and exported: images (batch, 3, height, width) to (batch, dim)."""

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        raise TypeError(f"{type(self).__name__} must define forward(views, labels)")

    def before_step(self, step: int, epoch: int, total_steps: int) -> None:
        """Set what depends on the progress of training, such as a momentum, before each step.

        Steps and epochs count from 0. The result must depend on the arguments alone, so that a resumed
        run continues exactly. Does nothing by default.
        """

    def after_backward(self) -> None:
        """Change gradients before the optimizer reads them. Does nothing by default."""

    def after_step(self) -> None:
        """Update what follows the weights, such as a moving average. Does nothing by default."""


class Method(Task):
    """Method of self-supervised pretraining; `sslortho.methods.registry` lists them.

    Args:
        backbone: network from images (batch, 3, height, width) to features (batch, dim).
        dim: number of features.
        options: an instance of `Options`, which has checked itself.

    Raises:
        ValueError: a package in `packages` is not installed.
    """

    Options: ClassVar[type[Any]]
    """Class of the method's own options, in `sslortho.methods.options`."""

    packages: ClassVar[tuple[str, ...]] = ()
    """Packages that the method imports when an instance is made, not before."""

    def __init__(self, backbone: nn.Module, dim: int, options: Any) -> None:
        for package in self.packages:
            _check_installed(package, type(self).__name__)
        super().__init__()
        self.backbone = backbone

    def _apply(self, fn: Any, recurse: bool = True) -> "Method":
        """Move or convert the method, but leave what its loss remembers in float32.

        DINO's centre and MoCo's queue: half precision would round the average away.
        """
        loss = self._modules.get("loss")
        kept = [] if loss is None else [
            (part, name, value)
            for part in loss.modules()
            for name, value in part._buffers.items()
            if value is not None and value.is_floating_point()
        ]  # fmt: skip
        super()._apply(fn, recurse)
        for part, name, value in kept:
            now = part._buffers[name]
            if now is not None and now.dtype in HALF_PRECISION:
                part._buffers[name] = in_float32(value).to(now.device)
        return self

    @staticmethod
    def takes(views: int) -> bool:
        """Tell whether a batch may have this number of views of each image."""
        return views == 2


def create_method(
    method: type[Method], settings: BackboneSettings, sizes: Collection[int], options: Any
) -> Method:
    """Build a method on a new backbone, on the CPU.

    Args:
        method: class of the method.
        settings: of the backbone.
        sizes: sides of the views in pixels.
        options: an instance of `method.Options`.

    Raises:
        ValueError: the backbone does not take views of these sizes, or has other numbers of features
            for some than for others.
    """
    backbone = settings.create()
    dims = {size: feature_dim(backbone, size) for size in sorted(sizes, reverse=True)}
    largest = max(dims)
    for size, dim in dims.items():
        if dim != dims[largest]:
            raise ValueError(
                f"backbone={settings.name!r} has not as many features of views of {size} pixels as of "
                f"{largest}, and {method.__name__} takes both; choose one that pools, such as resnet20, "
                "or views of one size, such as --views byol"
            )
    return method(backbone, dims[largest], options)


def _check_installed(package: str, method: str) -> None:
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:  # the package is there and lacks one of its own
            raise
        raise ValueError(
            f"{method} needs {package}, which is not installed: pip install {package}"
        ) from error


def compute_in_float32(loss: nn.Module, *projections: Tensor) -> Tensor:
    """Compute a loss of projections in float32 (float64 for float64 ones), with autocast off."""
    with torch.autocast(projections[0].device.type, enabled=False):
        return loss(*map(in_float32, projections))


def spread(z: Tensor) -> Tensor:
    """Spread of projections (batch, dim) over the sphere, a scalar: about 1 if uniform, 0 if collapsed.

    The standard deviation of each dimension of z / |z|, averaged, times sqrt(dim) (arXiv 2011.10566,
    section 4.1).
    """
    unit = nn.functional.normalize(z.detach().float(), dim=1)
    return unit.std(dim=0).mean() * z.shape[1] ** 0.5
