"""Options of `linear_eval` with protocol sgd, resolved: view, rates and optimizer, each worked out once."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from sslortho.augment import SUPERVISED_VIEWS, ViewSpec
from sslortho.methods import Classification
from sslortho.models import BackboneInfo, linear_classifier
from sslortho.optim import param_groups
from sslortho.optim.settings import OptimizerSettings, settle_optimizer
from sslortho.recipes.backbone import Subject
from sslortho.recipes.fitted import settled
from sslortho.recipes.linear_eval.options import LinearEvalOptions

USUAL_BATCH = 256
"""Samples of a step where the option is left out and there are as many images."""

LR_BACKBONE = 0.005
"""Default rate of the backbone in fine-tuning, per 256 samples (README of facebookresearch/barlowtwins)."""


@dataclass(frozen=True)
class LinearEvalRecipe:
    """A linear evaluation or fine-tuning by SGD that is fully decided, but for what the weights say."""

    options: LinearEvalOptions
    optimizer: OptimizerSettings
    view_name: str
    """Random view that the classifier is trained on."""
    lr_backbone: float | None
    """Learning rate of the backbone, per 256 samples; None if it is frozen."""

    def create_views(self, info: BackboneInfo) -> tuple[ViewSpec, ...]:
        """The training view, in the size and normalisation of the backbone's images."""
        return SUPERVISED_VIEWS[self.view_name](info.crop_size, info.mean, info.std)

    def create_task(self, subject: Subject, classes: int) -> Classification:
        """The backbone and a fresh classifier, whose weights depend on the seed alone."""
        torch.manual_seed(self.options.seed)
        classifier = linear_classifier(subject.dim, classes)
        return Classification(subject.backbone, classifier, self.lr_backbone is None)

    def create_optimizer(self, task: Classification) -> Optimizer:
        """The optimizer over the classifier, and over the backbone unless it is frozen.

        Raises ValueError for an optimizer that is left no layer to orthonormalise.
        """
        optimizer = self.optimizer
        groups = self._group(task, "classifier", optimizer.lr, "whole")
        if self.lr_backbone is not None:
            lr = self.lr_backbone * settled(self.options.batch_size) / 256
            groups += self._group(task, "backbone", lr, optimizer.attention)
        if optimizer.orth_layers != "none" and not any(group["orth"] for group in groups):
            raise ValueError(
                f"orth_layers={self.options.orth_layers!r} leaves optim={optimizer.name!r} nothing to "
                "orthonormalise: the classifier is a dense layer; use 'all', or weights 'finetune'"
            )
        return optimizer.create(groups)

    def _group(
        self, task: Classification, part: str, lr: float, attention: Any
    ) -> list[dict[str, Any]]:
        """Parameter groups of a part of the task, under its name."""
        groups = param_groups(
            getattr(task, part),
            self.optimizer.orth_layers,
            attention=attention,
            lr=lr,
            weight_decay=self.optimizer.weight_decay,
        )
        return [
            {
                **group,
                "name": f"{part}: {group['name']}",
                "names": [f"{part}.{name}" for name in group["names"]],
            }
            for group in groups
        ]


def resolve(options: LinearEvalOptions) -> LinearEvalRecipe:
    """Decide what the options leave open, but for a batch that the data decide.

    Raises ValueError for an option that the optimizer does not take, or that has no effect on a frozen
    backbone.
    """
    lr = options.lr * (options.batch_size or USUAL_BATCH) / 256
    optimizer = settle_optimizer(lr=lr, **options.optimizer_settings)
    frozen = options.weights == "freeze"
    if options.attention is not None and frozen:
        raise ValueError(f"attention={options.attention!r} has no effect on a frozen backbone")
    view_name = options.views
    if view_name == "auto":
        view_name = "supervised_digits" if options.data == "digits" else "supervised"
    lr_backbone = LR_BACKBONE if options.lr_backbone is None else options.lr_backbone
    return LinearEvalRecipe(options, optimizer, view_name, None if frozen else lr_backbone)
