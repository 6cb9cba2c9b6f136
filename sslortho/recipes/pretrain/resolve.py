"""Options of `pretrain`, resolved: views, stem, rates and optimizer, each worked out once."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from sslortho.augment import ViewSpec
from sslortho.augment.views import for_digits
from sslortho.methods.registry import load_method
from sslortho.methods.task import Method
from sslortho.models import BackboneInfo, create_backbone, feature_dim
from sslortho.models.backbones import Stem
from sslortho.optim import param_groups
from sslortho.recipes.backbone import SMALL_CROP, resolve_stem
from sslortho.recipes.optimizer import OptimizerRecipe, resolve_optimizer
from sslortho.recipes.pretrain.options import PretrainOptions


@dataclass(frozen=True)
class PretrainRecipe:
    """A pretraining that is fully decided, with nothing built yet."""

    options: PretrainOptions
    method: type[Method]
    views: tuple[ViewSpec, ...]
    """Views of each image, in the order of a batch."""
    stem: Stem
    """First layers of the backbone."""
    info: BackboneInfo
    """Name and stem of the backbone, size and normalisation of its images."""
    optimizer: OptimizerRecipe
    lr_biases: float
    """Learning rate of biases and norms, absolute."""

    def create_backbone(self) -> nn.Module:
        """The backbone with its initial weights, which depend on the seed alone."""
        several = len({view.crop_size for view in self.views}) > 1
        torch.manual_seed(self.options.seed)
        return create_backbone(self.info.backbone, self.stem, any_size=several)

    def create_task(self) -> Method:
        """Model and loss, on the CPU.

        Raises ValueError for a backbone whose number of features depends on the size of the views.
        """
        backbone = self.create_backbone()
        dim = feature_dim(backbone, self.info.crop_size)
        for size in {view.crop_size for view in self.views}:
            if feature_dim(backbone, size) != dim:
                raise ValueError(
                    f"backbone={self.info.backbone!r} has not as many features of views of {size} pixels "
                    f"as of {self.info.crop_size}, and method={self.options.method!r} takes both; choose "
                    "one that pools, such as resnet20, or --views byol"
                )
        return self.method(backbone, dim, self.options)

    def create_optimizer(self, task: nn.Module) -> Optimizer:
        """The optimizer over the parameter groups of a task."""
        groups = param_groups(
            task,
            self.optimizer.orth_layers,
            attention=self.optimizer.attention,
            lr=self.optimizer.lr,
            lr_biases=self.lr_biases,
            weight_decay=self.optimizer.weight_decay,
        )
        return self.optimizer.create(groups)


def resolve(options: PretrainOptions) -> PretrainRecipe:
    """Decide what the options leave open.

    Raises ValueError for views that the method does not take, a stem without effect, and an option
    that the optimizer does not take.
    """
    method = load_method(options.method)
    scale = options.batch_size / 256
    optimizer = resolve_optimizer(options, options.lr * scale, "conv")
    views = _choose_views(options, method)
    stem = resolve_stem(options.backbone, options.stem, options.crop_size)
    info = BackboneInfo(
        backbone=options.backbone,
        stem=stem,
        crop_size=options.crop_size,
        mean=views[0].mean,
        std=views[0].std,
    )
    return PretrainRecipe(
        options=options,
        method=method,
        views=views,
        stem=stem,
        info=info,
        optimizer=optimizer,
        lr_biases=options.lr_biases * scale,
    )


def _choose_views(options: PretrainOptions, method: type[Method]) -> tuple[ViewSpec, ...]:
    views = _create_views(options)
    if not method.takes(len(views)):
        raise ValueError(
            f"views={options.views!r} are {len(views)} of each image, which method={options.method!r} "
            "does not take; leave it out for the method's own"
        )
    return views


def _create_views(options: PretrainOptions) -> tuple[ViewSpec, ...]:
    """The views that the options name, whatever the method."""
    name = options.views
    if name == "auto":
        small = "_digits" if options.data == "digits" else "_small"
        name = options.method + (small if options.crop_size <= SMALL_CROP else "")
    published = name.removesuffix("_small").removesuffix("_digits")
    method = load_method(published)
    if name == published:
        return method.views(options.crop_size)
    views = method.small_views(options.crop_size)
    return for_digits(views) if name.endswith("_digits") else views
