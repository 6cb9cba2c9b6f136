"""Supervised classification from scratch."""

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from sslortho.augment import SUPERVISED_VIEWS, ViewSpec
from sslortho.augment.views import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    evaluation_spec,
)
from sslortho.recipes.backbone import SMALL_CROP, Subject, resolve_stem
from sslortho.recipes.data import (
    build_evaluation_loader,
    build_train_loader,
)
from sslortho.recipes.linear_eval.resolve import LARGE_CROP, ClassifierTraining
from sslortho.recipes.data import LabelledData, check_classes, load_labelled_data
from sslortho.recipes.training import Training, cosine_schedule, multi_step_schedule, place_model
from sslortho.recipes.optimizer import check_optimizer, optimizer_over
from sslortho.recipes.process import join_ranks
from sslortho.recipes.supervised.options import SupervisedOptions
from sslortho.data import EvaluationLoader, ImageSet, hold_out
from sslortho.evaluate import evaluate_classifier
from sslortho.evaluate.features import evaluation_mode
from sslortho.models import BackboneInfo, create_backbone, feature_dim, initial_classifier
from sslortho.optim import param_groups
from sslortho.methods import Classification
from sslortho.train.fit import Schedule


@dataclass(frozen=True)
class Supervised(ClassifierTraining):
    """Everything that a supervised run is made of."""

    view: str
    """Name of the training view."""
    validation: EvaluationLoader | None
    """Evaluation views of the held-out training images."""

    def evaluate_on_the_way(self, task: Classification) -> dict[str, float]:
        """Figures of the held-out images (val_top1, ...) if there are some, else of the test images."""
        if self.validation is None:
            return self.evaluate(task)
        with evaluation_mode(task), self.autocast():
            figures = evaluate_classifier(task.classify, self.validation)
        return {f"val_{name.removeprefix('test_')}": value for name, value in figures.items()}


def native_crop(config: SupervisedOptions, data: ImageSet) -> int:
    """Side of the views in pixels: as configured, or the images' own where they are small."""
    if config.crop_size is not None:
        return config.crop_size
    return min(data.first_size) if data.holds_small_images else LARGE_CROP


def choose_view(config: SupervisedOptions, data: ImageSet, crop_size: int) -> str:
    """Name of the training view."""
    if config.views != "auto":
        return config.views
    if config.data == "digits":
        return "supervised_digits"
    whole = data.holds_small_images and data.first_size == (crop_size, crop_size)
    return "supervised_small" if whole else "supervised"


def create_view(name: str, crop_size: int) -> ViewSpec:
    """The training view, with the normalisation that goes with its size."""
    small = crop_size <= SMALL_CROP
    mean, std = (CIFAR10_MEAN, CIFAR10_STD) if small else (IMAGENET_MEAN, IMAGENET_STD)
    return SUPERVISED_VIEWS[name](crop_size, mean, std)[0]


def build_subject(config: SupervisedOptions, view: ViewSpec) -> Subject:
    """The backbone with its initial weights, which depend on the seed alone."""
    chosen = None if config.stem == "auto" else config.stem
    stem = resolve_stem(config.backbone, chosen, view.crop_size)
    torch.manual_seed(config.seed)
    # torchvision's own default, which the paper's networks have
    backbone = create_backbone(config.backbone, stem, zero_init_residual=False)
    info = BackboneInfo(
        backbone=config.backbone,
        stem=stem,
        crop_size=view.crop_size,
        mean=view.mean,
        std=view.std,
    )
    return Subject(backbone, info, f"trained from scratch, seed {config.seed}")


def count_outputs(config: SupervisedOptions, classes: int) -> int:
    """Outputs of the classifier. Raises ValueError for fewer than the data have classes."""
    if config.head_classes is not None and config.head_classes < classes:
        raise ValueError(
            f"head_classes={config.head_classes} is less than the {classes} classes of the data; raise "
            "it, or leave it out"
        )
    return config.head_classes or classes


def build_schedule(config: SupervisedOptions, batches: int) -> Schedule:
    """The rate's multiplier by step, for epochs of so many batches."""
    if config.schedule == "cosine":
        return cosine_schedule(config, batches, final=0.0)
    gamma = 0.1 if config.gamma is None else config.gamma
    return multi_step_schedule(config, batches, config.milestones or (), gamma)


def build_supervised_optimizer(config: SupervisedOptions, task: nn.Module) -> Optimizer:
    """The optimizer over all of the task's parameters, at one rate.

    Raises ValueError for an option that the optimizer does not take.
    """
    takes_orth = "orth" in check_optimizer(config)
    groups = param_groups(
        task,
        (config.orth_layers or "all") if takes_orth else "none",
        attention=config.attention or "whole",
        lr=config.lr,
        weight_decay=config.weight_decay,
    )
    for group in groups:
        if group["name"] == "biases and norms":
            group["weight_decay"] = config.weight_decay_biases
    return optimizer_over(config, groups, config.lr)


def _load(config: SupervisedOptions) -> tuple[LabelledData, ImageSet | None]:
    """Images to train and to test on, and those held out."""
    data = load_labelled_data(config)
    if config.validation is None:
        return check_classes(config, data), None
    train, held_out = hold_out(data.train, config.validation, config.seed)
    return check_classes(config, LabelledData(train, data.test, data.classes)), held_out


def _build_training(
    config: SupervisedOptions,
    accelerator: Accelerator,
    task: Classification,
    data: ImageSet,
    view: ViewSpec,
) -> Training:
    loader = build_train_loader(config, data, (view,), accelerator)
    place_model(task, config, accelerator)
    optimizer = build_supervised_optimizer(config, task)
    if config.compile:
        task.compile()
    schedule = build_schedule(config, len(loader))
    return Training(config, accelerator, task, optimizer, loader, schedule)


def build_supervised(config: SupervisedOptions) -> Supervised:
    """All of a supervised run, checked. Raises ValueError for a mistake of the user's."""
    check_optimizer(config)
    accelerator = join_ranks(config, config.run_folder, config.mixed_precision, config.trackers)
    with accelerator.local_main_process_first():  # the others find what it downloaded
        data, held_out = _load(config)
    crop_size = native_crop(config, data.train)
    name = choose_view(config, data.train, crop_size)
    view = create_view(name, crop_size)
    subject = build_subject(config, view)
    dim = feature_dim(subject.backbone, crop_size)
    outputs = count_outputs(config, len(data.classes))
    task = Classification(
        subject.backbone,
        initial_classifier(config.backbone, dim, outputs),
        label_smoothing=config.label_smoothing,
    )
    spec = evaluation_spec(view, data.train.holds_small_images)

    def evaluation_loader(images: ImageSet) -> EvaluationLoader:
        return build_evaluation_loader(config, images, spec, accelerator)

    return Supervised(
        config=config,
        accelerator=accelerator,
        data=data,
        subject=subject,
        dim=dim,
        spec=spec,
        test=evaluation_loader(data.test),
        task=task,
        training=_build_training(config, accelerator, task, data.train, view),
        view=name,
        validation=None if held_out is None else evaluation_loader(held_out),
    )
