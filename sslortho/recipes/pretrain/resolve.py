"""Pretraining."""

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from sslortho.augment import ViewSpec
from sslortho.augment.views import evaluation_spec, for_digits
from sslortho.recipes.backbone import SMALL_CROP, resolve_stem
from sslortho.recipes.data import (
    build_evaluation_loader,
    build_train_loader,
    holds_small_images,
    load_test_set,
    load_training_set,
)
from sslortho.recipes.training import Training, cosine_schedule, place_model
from sslortho.recipes.optimizer import check_optimizer, optimizer_over
from sslortho.recipes.process import join_ranks
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.data import EvaluationLoader, ImageSet
from sslortho.evaluate import FrozenEvaluation
from sslortho.models import BackboneInfo, create_backbone, feature_dim
from sslortho.models.backbones import Stem
from sslortho.optim import param_groups
from sslortho.methods import METHODS, Task, load_method


def create_views(config: PretrainOptions) -> tuple[ViewSpec, ...]:
    """The views that the configuration names.

    Raises ValueError if they are not as many as the method takes.
    """
    views = _named_views(config)
    if not load_method(config.method).takes(len(views)):
        raise ValueError(
            f"views={config.views!r} are {len(views)} of each image, which method={config.method!r} "
            "does not take; leave it out for the method's own"
        )
    return views


def _named_views(config: PretrainOptions) -> tuple[ViewSpec, ...]:
    name = config.views
    if name == "auto":
        small = "_digits" if config.data == "digits" else "_small"
        name = config.method + (small if config.crop_size <= SMALL_CROP else "")
    method = load_method(name.removesuffix("_small").removesuffix("_digits"))
    if name in METHODS:
        return method.views(config.crop_size)
    views = method.small_views(config.crop_size)
    return for_digits(views) if name.endswith("_digits") else views


def _stem(config: PretrainOptions) -> Stem:
    stem = None if config.stem == "auto" else config.stem
    return resolve_stem(config.backbone, stem, config.crop_size)


def build_backbone(config: PretrainOptions) -> nn.Module:
    """The backbone with its initial weights, which depend on the seed alone."""
    sizes = {view.crop_size for view in create_views(config)}
    torch.manual_seed(config.seed)
    return create_backbone(config.backbone, _stem(config), any_size=len(sizes) > 1)


def backbone_info(config: PretrainOptions) -> BackboneInfo:
    """What whoever loads the backbone has to know."""
    view = create_views(config)[0]
    return BackboneInfo(
        backbone=config.backbone,
        stem=_stem(config),
        crop_size=config.crop_size,
        mean=view.mean,
        std=view.std,
    )


def build_task(config: PretrainOptions) -> Task:
    """Model and loss, on the CPU."""
    backbone = build_backbone(config)
    dim = feature_dim(backbone, config.crop_size)
    for size in {view.crop_size for view in create_views(config)}:
        if feature_dim(backbone, size) != dim:
            raise ValueError(
                f"backbone={config.backbone!r} has not as many features of views of {size} pixels as of "
                f"{config.crop_size}, and method={config.method!r} takes both; choose one that pools, "
                "such as resnet20, or --views byol"
            )
    return load_method(config.method)(backbone, dim, config)


def build_optimizer(config: PretrainOptions, task: nn.Module) -> Optimizer:
    """The optimizer over the task's parameter groups, with rates for this batch size.

    Raises ValueError for an option that the optimizer does not take.
    """
    scale = config.batch_size / 256
    groups = param_groups(
        task,
        config.orth_layers or "conv",
        attention=config.attention or "whole",
        lr=config.lr * scale,
        lr_biases=config.lr_biases * scale,
        weight_decay=config.weight_decay,
    )
    return optimizer_over(config, groups, config.lr * scale)


def _evaluation_loader(
    config: PretrainOptions, data: ImageSet, accelerator: Accelerator
) -> EvaluationLoader:
    spec = evaluation_spec(create_views(config)[0], holds_small_images(data))
    return build_evaluation_loader(config, data, spec, accelerator)


def build_evaluation(
    config: PretrainOptions, train: ImageSet, test: ImageSet | None, accelerator: Accelerator
) -> FrozenEvaluation:
    """kNN, linear probe and collapse measures on the images trained on and the test images."""
    labelled = test is not None and bool((train.labels >= 0).all())
    return FrozenEvaluation(
        train=_evaluation_loader(config, train, accelerator),
        test=_evaluation_loader(config, test, accelerator) if test and labelled else None,
        knn_k=config.knn_k,
        knn_temperature=config.knn_temperature,
        linear_probe=config.linear_probe,
    )


@dataclass(frozen=True)
class Pretraining(Training):
    """Everything that a pretraining run is made of."""

    config: PretrainOptions
    evaluation: FrozenEvaluation

    def untrained_backbone(self) -> nn.Module:
        """The backbone as it was before training."""
        return build_backbone(self.config).to(self.accelerator.device)


def build_pretraining(config: PretrainOptions) -> Pretraining:
    """All of a pretraining run, checked. Raises ValueError for a mistake of the user's."""
    check_optimizer(config)
    accelerator = join_ranks(config, config.run_folder, config.mixed_precision, config.trackers)
    with accelerator.local_main_process_first():  # the others find what it downloaded
        train = load_training_set(config)
        test = load_test_set(config)
    loader = build_train_loader(config, train, create_views(config), accelerator)

    task = build_task(config)
    place_model(task, config, accelerator)
    optimizer = build_optimizer(config, task)
    if config.compile:
        task.compile()
    return Pretraining(
        config=config,
        accelerator=accelerator,
        task=task,
        optimizer=optimizer,
        loader=loader,
        # down to a thousandth, as facebookresearch/barlowtwins
        schedule=cosine_schedule(config, len(loader), final=1e-3),
        evaluation=build_evaluation(config, train, test, accelerator),
    )
