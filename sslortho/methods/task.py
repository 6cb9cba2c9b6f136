"""Interfaces: of a task to the training loop, and of a method of pretraining to the recipe."""

import importlib
import inspect
from collections.abc import Callable, Collection, Sequence
from itertools import groupby
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from typing_extensions import Self

from sslortho.models.network_facts import feature_dim
from sslortho.models.own_projectors import ProjectorSource, create_projector
from sslortho.optim.precision import HALF_PRECISION, in_float32
from sslortho.options import Options


class Task(nn.Module):
    """Model and loss.

    `task(views, labels)` takes the tensors of a `Batch`: views, each (batch, channels, height, width),
    and labels (batch,). It returns {"loss": scalar, name: scalar, ...}; all but the loss is only logged.
    """

    backbone: nn.Module
    """The network that is evaluated and exported: images (batch, 3, height, width) to (batch, dim)."""

    kept: tuple[nn.Module, ...] = ()
    """Modules that do not train: they stay in evaluation mode whatever `train` says."""

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.kept:
            module.eval()
        return self

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

    A method of one's own is a subclass that `sslortho.pretrain(method=CLASS)` takes.

    Args:
        backbone: network from images (batch, 3, height, width) to features (batch, dim).
        dim: number of features.
        options: an instance of `Options`, which has checked itself.

    Raises:
        ValueError: a package in `packages` is not installed.
    """

    Options: ClassVar[type[Any]] = Options
    """Class of the method's own options, in `sslortho.methods.options`. Default: it has none."""

    default_views: ClassVar[str] = "barlow_twins"
    """Views of photographs for a method of one's own, by name; those of a named method bear its name."""

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


class BackboneSource(Protocol):
    """A backbone that can be made again with the same initial weights."""

    @property
    def name(self) -> str:
        """Name for messages."""
        ...

    def create(self) -> nn.Module:
        """The backbone, on the CPU; torch's generator is seeded."""
        ...


def create_method(
    method: type[Method],
    settings: BackboneSource,
    sizes: Collection[int],
    options: Any,
    projector: ProjectorSource | None = None,
) -> Method:
    """Build a method on a new backbone, on the CPU.

    Args:
        method: class of the method.
        settings: of the backbone.
        sizes: sides of the views in pixels.
        options: an instance of `method.Options`.
        projector: of one's own, in place of the method's.

    Raises:
        ValueError: the backbone does not take views of these sizes, or has other numbers of features
            for some than for others; the method takes no projector, or not this one.
    """
    backbone = settings.create()
    dim = _common_dim(backbone, settings.name, sizes, method.__name__)
    if projector is None:
        return method(backbone, dim, options)
    if "projector" not in inspect.signature(method).parameters:
        raise ValueError(
            f"projector: {method.__name__} takes none of one's own (its __init__ has no argument of this "
            "name); leave it out"
        )
    head = create_projector(projector, dim)
    return method(backbone, dim, options, projector=head)  # pyright: ignore[reportCallIssue]


def _common_dim(backbone: nn.Module, name: str, sizes: Collection[int], method: str) -> int:
    """Number of features, which must be the same for views of all sizes."""
    largest = max(sizes)
    dim = feature_dim(backbone, largest)
    for size in sorted(sizes, reverse=True)[1:]:
        try:
            other = feature_dim(backbone, size)
        except ValueError as error:
            raise ValueError(
                f"crop_size={largest}: {method} has views of {size} pixels too, which backbone={name!r} does "
                f"not take ({error.__cause__ or error}); choose a crop_size of which all views fit, a "
                "backbone that takes any size, or views of one size, such as --views byol"
            ) from error
        if other != dim:
            raise ValueError(
                f"backbone={name!r} has not as many features of views of {size} pixels as of {largest}, and "
                f"{method} takes both; choose one that pools, such as resnet20, or views of one size, such "
                "as --views byol"
            )
    return dim


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


def pass_views(network: Callable[[Tensor], Tensor], views: Sequence[Tensor]) -> list[Tensor]:
    """Outputs (batch, dim) of a network for each view, in one pass for all neighbours of each size.

    Views are (batch, channels, height, width). Batch norm has the statistics of all views of a pass together.
    """
    sizes = [list(sized) for _, sized in groupby(views, key=lambda view: view.shape[1:])]
    return [z for size in sizes for z in network(torch.cat(size)).chunk(len(size))]


def spread(z: Tensor) -> Tensor:
    """Spread of projections (batch, dim) over the sphere, a scalar: about 1 if uniform, 0 if collapsed.

    The standard deviation of each dimension of z / |z|, averaged, times sqrt(dim) (arXiv 2011.10566,
    section 4.1).
    """
    unit = nn.functional.normalize(z.detach().float(), dim=1)
    return unit.std(dim=0).mean() * z.shape[1] ** 0.5
