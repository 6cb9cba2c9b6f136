"""The evaluation of a backbone: on what, and by which protocol."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from sslortho.augment import SUPERVISED_VIEWS, EvaluationSpec, ViewSpec
from sslortho.augment.views import evaluation_spec
from sslortho.recipes.backbone import Subject, load_subject
from sslortho.recipes.data import (
    build_evaluation_loader,
    build_train_loader,
    evaluation_views,
)
from sslortho.recipes.data import (
    LabelledData,
    choose_training_images,
    load_labelled_data,
)
from sslortho.recipes.training import Training, cosine_schedule, place_model
from sslortho.recipes.optimizer import check_optimizer, optimizer_over
from sslortho.recipes.process import join_ranks
from sslortho.recipes.linear_eval.options import KnnEvalOptions, LinearEvalOptions
from sslortho.recipes.options import DataOptions
from sslortho.recipes.linear_eval.options import BackboneOptions
from sslortho.data import EvaluationLoader, ImageSet
from sslortho.evaluate import PRESETS, evaluate_classifier
from sslortho.evaluate.features import evaluation_mode
from sslortho.models import feature_dim, linear_classifier
from sslortho.optim import param_groups
from sslortho.methods import Classification

LARGE_CROP = 224
"""Side of the views where neither the weights nor the images say another."""

LR_BACKBONE = 0.005
"""Rate of the backbone in fine-tuning, per 256 samples (README of facebookresearch/barlowtwins)."""


@dataclass(frozen=True)
class Evaluation:
    """A backbone, and the evaluation views of the images that it is judged on."""

    config: DataOptions
    accelerator: Accelerator
    data: LabelledData
    subject: Subject
    dim: int
    """Of the features."""
    spec: EvaluationSpec
    test: EvaluationLoader

    def autocast(self) -> AbstractContextManager[None]:
        """The precision that the backbone runs in."""
        return self.accelerator.autocast()

    def train_loader(self, most: int | None = None) -> EvaluationLoader:
        """Evaluation views of the training images, or of `most` of them, drawn by seed."""
        data = self.data.train if most is None else self.some(most)
        return build_evaluation_loader(self.config, data, self.spec, self.accelerator)

    def some(self, most: int) -> ImageSet:
        """At most so many of the training images, in order."""
        data = self.data.train
        if len(data) <= most:
            return data
        generator = torch.Generator().manual_seed(self.config.seed)
        return data.select(torch.randperm(len(data), generator=generator)[:most].sort().values)

    def images(self, data: ImageSet, indices: Tensor) -> Tensor:
        """Evaluation views (n, 3, size, size) of these samples, normalised, on the CPU."""
        return evaluation_views(self.config, data, self.spec, indices)


def _build_evaluation(config: BackboneOptions, accelerator: Accelerator) -> Evaluation:
    with accelerator.local_main_process_first():  # the others find what it downloaded
        data = choose_training_images(config, load_labelled_data(config))
    small = data.train.holds_small_images
    subject = load_subject(config, min(data.train.first_size) if small else LARGE_CROP)
    info = subject.info
    dim = feature_dim(subject.backbone, info.crop_size)
    view = ViewSpec(crop_size=info.crop_size, blur_p=0.0, mean=info.mean, std=info.std)
    spec = evaluation_spec(view, small)
    subject.backbone.to(accelerator.device)
    if config.channels_last:
        subject.backbone.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return Evaluation(
        config=config,
        accelerator=accelerator,
        data=data,
        subject=subject,
        dim=dim,
        spec=spec,
        test=build_evaluation_loader(config, data.test, spec, accelerator),
    )


def neighbours_and_temperature(config: KnnEvalOptions) -> tuple[int, float]:
    """k and temperature of a kNN evaluation, by options or preset."""
    k, temperature = PRESETS[config.preset or "dino"]
    return config.k or k, config.temperature or temperature


def build_knn_evaluation(config: KnnEvalOptions) -> Evaluation:
    """All of a kNN evaluation, checked. Raises ValueError for a mistake of the user's."""
    accelerator = join_ranks(config, config.run_folder, config.mixed_precision)
    run = _build_evaluation(config, accelerator)
    k, _ = neighbours_and_temperature(config)
    if k > len(run.data.train):
        raise ValueError(f"k={k} is more than the {len(run.data.train)} training images; lower it")
    return run


@dataclass(frozen=True)
class ClassifierTraining(Evaluation):
    """An evaluation whose classifier is trained by the loop, alone or with the backbone."""

    task: Classification
    training: Training

    def evaluate(self, task: Classification) -> dict[str, float]:
        """top1, top5 and test_loss on the test images."""
        with evaluation_mode(task), self.autocast():
            return evaluate_classifier(task.classify, self.test)


def views_name(config: LinearEvalOptions) -> str:
    """Name of the random view that the classifier is trained on."""
    if config.views != "auto":
        return config.views
    return "supervised_digits" if config.data == "digits" else "supervised"


def backbone_rate(config: LinearEvalOptions) -> float:
    """Rate of the backbone in fine-tuning, per 256 samples."""
    return LR_BACKBONE if config.lr_backbone is None else config.lr_backbone


def build_classification(
    config: LinearEvalOptions, backbone: nn.Module, classes: int, dim: int
) -> Classification:
    """Backbone and a fresh classifier, whose weights depend on the seed alone."""
    torch.manual_seed(config.seed)
    return Classification(backbone, linear_classifier(dim, classes), config.weights == "freeze")


def build_classification_optimizer(config: LinearEvalOptions, task: Classification) -> Optimizer:
    """The optimizer over the classifier, and over the backbone unless it is frozen.

    Raises ValueError for an option that the optimizer does not take, or that leaves it no layer.
    """
    rates = {"classifier": config.lr}
    if not task.freeze_backbone:
        rates["backbone"] = backbone_rate(config)
    if config.attention is not None and task.freeze_backbone:
        raise ValueError(f"attention={config.attention!r} has no effect on a frozen backbone")
    takes_orth = "orth" in check_optimizer(config)
    groups: list[dict[str, Any]] = []
    for part, rate in rates.items():
        for group in param_groups(
            getattr(task, part),
            (config.orth_layers or "all") if takes_orth else "none",
            attention=(config.attention or "whole") if part == "backbone" else "whole",
            lr=rate * config.batch_size / 256,
            weight_decay=config.weight_decay,
        ):
            names = [f"{part}.{name}" for name in group["names"]]
            groups.append({**group, "name": f"{part}: {group['name']}", "names": names})
    if takes_orth and not any(group["orth"] for group in groups):
        raise ValueError(
            f"orth_layers={config.orth_layers!r} leaves optim={config.optim!r} nothing to "
            "orthonormalise: the classifier is a dense layer; use 'all', or weights 'finetune'"
        )
    return optimizer_over(config, groups, config.lr * config.batch_size / 256)


def build_fast_probe(config: LinearEvalOptions) -> Evaluation:
    """All that protocol lbfgs needs, checked. Raises ValueError for a mistake of the user's."""
    accelerator = join_ranks(config, config.run_folder, config.mixed_precision)
    return _build_evaluation(config, accelerator)


def build_linear_evaluation(config: LinearEvalOptions) -> ClassifierTraining:
    """All that protocol sgd needs, checked. Raises ValueError for a mistake of the user's."""
    check_optimizer(config)
    accelerator = join_ranks(config, config.run_folder, config.mixed_precision, config.trackers)
    run = _build_evaluation(config, accelerator)
    info, data = run.subject.info, run.data
    views = SUPERVISED_VIEWS[views_name(config)](info.crop_size, info.mean, info.std)
    loader = build_train_loader(config, data.train, views, accelerator)
    task = build_classification(config, run.subject.backbone, len(data.classes), run.dim)
    place_model(task, config, accelerator)
    optimizer = build_classification_optimizer(config, task)
    if config.compile:
        task.compile()
    schedule = cosine_schedule(config, len(loader), final=0.0)
    training = Training(config, accelerator, task, optimizer, loader, schedule)
    return ClassifierTraining(**vars(run), task=task, training=training)
