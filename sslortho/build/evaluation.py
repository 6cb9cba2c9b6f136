"""The evaluation of a backbone: which one, on what, by which protocol."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from sslortho.augment import SUPERVISED_VIEWS, EvaluationSpec, ViewSpec
from sslortho.augment.views import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Triple,
    evaluation_spec,
)
from sslortho.build.data import (
    SMALL_CROP,
    build_evaluation_loader,
    build_train_loader,
    evaluation_views,
    load_test_set,
    load_training_set,
)
from sslortho.build.loop import Training, cosine_schedule, place_model
from sslortho.build.optimizer import check_optimizer, optimizer_over
from sslortho.config import KnnEvalConfig, LinearEvalConfig
from sslortho.config.evaluation import BackboneConfig
from sslortho.data import EvaluationLoader, ImageArray, ImageSet, balanced_subset, named_subset
from sslortho.evaluate import evaluate_classifier
from sslortho.evaluate.features import evaluation_mode
from sslortho.models import (
    BackboneInfo,
    create_backbone,
    feature_dim,
    linear_classifier,
    read_weights,
    restore_backbone,
)
from sslortho.models.backbones import TORCHVISION
from sslortho.optim import param_groups
from sslortho.tasks import Classification
from sslortho.train.launch import create_accelerator, set_threads

LARGE_CROP = 224
"""Side of the views where neither the weights nor the images say another."""

LR_BACKBONE = 0.005
"""Rate of the backbone in fine-tuning, per 256 samples (README of facebookresearch/barlowtwins)."""

NORMALISATIONS = {"imagenet": (IMAGENET_MEAN, IMAGENET_STD), "cifar10": (CIFAR10_MEAN, CIFAR10_STD)}


@dataclass(frozen=True)
class Subject:
    """The backbone under evaluation."""

    backbone: nn.Module
    info: BackboneInfo
    origin: str
    """Where its weights come from, in words."""


@dataclass(frozen=True)
class LabelledData:
    """Labelled images to fit on and to test on."""

    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]


def load_labelled_data(config: BackboneConfig) -> LabelledData:
    """Training and test images, checked. Raises ValueError where labels or test images are missing,
    or do not fit each other."""
    train, test = load_training_set(config), load_test_set(config)
    if test is None:
        raise ValueError(f"data_dir={config.data_dir!r} has no test images; add test/ or val/")
    for name, data in (("training", train), ("test", test)):
        if int(data.labels.min()) < 0:
            raise ValueError(
                f"data={config.data!r}, data_dir={config.data_dir!r}: the {name} images have no labels; "
                "evaluation needs class folders"
            )
    names = train.classes or tuple(str(i) for i in range(int(train.labels.max()) + 1))
    found = int(test.labels.max()) + 1
    if found > len(names):
        raise ValueError(
            f"the test images are of {found} classes, the training images of {len(names)}; they must "
            "be of one data set"
        )
    if len(names) < 2:
        raise ValueError(f"data={config.data!r} has one class alone ({names[0]}); two are needed")
    if config.train_percent is not None:
        train = _share(train, config.train_percent, len(names), config.seed)
    if config.train_list is not None:
        train = named_subset(train, Path(config.train_list))
    return LabelledData(train, test, names)


def _share(train: ImageSet, percent: float, classes: int, seed: int) -> ImageSet:
    size = round(len(train) * percent / 100)
    if size < classes:
        raise ValueError(
            f"train_percent={percent} leaves {size} of {len(train)} images for {classes} classes; "
            "raise it"
        )
    try:
        return balanced_subset(train, size, seed)
    except ValueError as error:
        raise ValueError(f"train_percent={percent}, balanced over the classes: {error}") from error


def _native_size(data: ImageSet) -> int:
    return data.images.shape[-1] if isinstance(data, ImageArray) else LARGE_CROP


def _normalisation(
    config: BackboneConfig, crop_size: int, known: BackboneInfo | None
) -> tuple[Triple, Triple]:
    if config.normalise != "auto":
        return NORMALISATIONS[config.normalise]
    if known is not None:
        return known.mean, known.std
    return NORMALISATIONS["cifar10" if crop_size <= SMALL_CROP else "imagenet"]


def load_subject(config: BackboneConfig, native_size: int) -> Subject:
    """The backbone that the configuration names, with its weights, on the CPU.

    native_size: side of the views in pixels where neither options nor weights say another.
    """
    stem = None if config.stem == "auto" else config.stem
    if config.backbone_from == "random":
        name, known = str(config.backbone), None
        crop_size = config.crop_size or native_size
        if stem is None and name in TORCHVISION:
            stem = "small" if crop_size <= SMALL_CROP else "stock"
        torch.manual_seed(config.seed)
        stem = stem or "stock"
        network, origin = create_backbone(name, stem), f"random weights, seed {config.seed}"
    else:
        weights = read_weights(config.backbone_from)
        restored = restore_backbone(weights, config.backbone, stem, config.weights_prefix)
        name, stem, known = restored.name, restored.stem, restored.info
        crop_size = config.crop_size or (known.crop_size if known else native_size)
        network, origin = restored.network, f"{config.backbone_from} ({restored.report})"
    mean, std = _normalisation(config, crop_size, known)
    info = BackboneInfo(backbone=name, stem=stem, crop_size=crop_size, mean=mean, std=std)
    return Subject(network, info, origin)


@dataclass(frozen=True)
class Evaluation:
    """A backbone, and the evaluation views of the images that it is judged on."""

    config: BackboneConfig
    accelerator: Accelerator
    data: LabelledData
    subject: Subject
    spec: EvaluationSpec
    train: EvaluationLoader
    test: EvaluationLoader

    def images(self, data: ImageSet, indices: Tensor) -> Tensor:
        """Evaluation views (n, 3, size, size) of these samples, normalised, on the CPU."""
        return evaluation_views(self.config, data, self.spec, indices)


@dataclass(frozen=True)
class KnnEvaluation(Evaluation):
    """An evaluation by nearest neighbours."""

    config: KnnEvalConfig


@dataclass(frozen=True)
class LinearEvaluation(Evaluation):
    """An evaluation by a linear classifier, or by fine-tuning."""

    config: LinearEvalConfig
    task: Classification
    training: Training | None
    """None for protocol lbfgs, which has no loop."""

    def evaluate(self, task: Classification) -> dict[str, float]:
        """top1, top5 and test_loss on the test images."""
        with evaluation_mode(task), self.accelerator.autocast():
            return evaluate_classifier(task.classify, self.test)


def _prepare(config: BackboneConfig, accelerator: Accelerator) -> dict[str, Any]:
    with accelerator.local_main_process_first():  # the others find what it downloaded
        data = load_labelled_data(config)
    subject = load_subject(config, _native_size(data.train))
    info = subject.info
    view = ViewSpec(crop_size=info.crop_size, blur_p=0.0, mean=info.mean, std=info.std)
    spec = evaluation_spec(view, isinstance(data.train, ImageArray))
    subject.backbone.to(accelerator.device)
    if config.channels_last:
        subject.backbone.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return {
        "config": config,
        "accelerator": accelerator,
        "data": data,
        "subject": subject,
        "spec": spec,
        "train": build_evaluation_loader(config, data.train, spec, accelerator),
        "test": build_evaluation_loader(config, data.test, spec, accelerator),
    }


def build_knn_evaluation(config: KnnEvalConfig) -> KnnEvaluation:
    """All of a kNN evaluation, checked. Raises ValueError for a mistake of the user's."""
    set_threads(config.threads)
    return KnnEvaluation(**_prepare(config, create_accelerator("no", "none", config.run_folder)))


def views_name(config: LinearEvalConfig) -> str:
    """Name of the random view that the classifier is trained on."""
    if config.views != "auto":
        return config.views
    return "supervised_digits" if config.data == "digits" else "supervised"


def backbone_rate(config: LinearEvalConfig) -> float:
    """Rate of the backbone in fine-tuning, per 256 samples."""
    return LR_BACKBONE if config.lr_backbone is None else config.lr_backbone


def _parameter_groups(config: LinearEvalConfig, task: Classification) -> list[dict[str, Any]]:
    rates = {"classifier": config.lr}
    if not task.freeze_backbone:
        rates["backbone"] = backbone_rate(config)
    groups = []
    for part, rate in rates.items():
        for group in param_groups(
            getattr(task, part),
            config.orth_layers or "all",
            lr=rate * config.batch_size / 256,
            weight_decay=config.weight_decay,
        ):
            names = [f"{part}.{name}" for name in group["names"]]
            groups.append({**group, "name": f"{part}: {group['name']}", "names": names})
    return groups


def build_classification(
    config: LinearEvalConfig, subject: Subject, classes: int
) -> Classification:
    """Backbone and a fresh classifier, whose weights depend on the seed alone."""
    dim = feature_dim(subject.backbone, subject.info.crop_size)
    torch.manual_seed(config.seed)
    classifier = linear_classifier(dim, classes)
    return Classification(subject.backbone, classifier, config.weights == "freeze")


def build_classification_optimizer(config: LinearEvalConfig, task: Classification) -> Optimizer:
    """The optimizer over the classifier, and over the backbone unless it is frozen."""
    groups = _parameter_groups(config, task)
    return optimizer_over(config, groups, config.lr * config.batch_size / 256)


def build_linear_evaluation(config: LinearEvalConfig) -> LinearEvaluation:
    """All of a linear evaluation, checked. Raises ValueError for a mistake of the user's."""
    check_optimizer(config)
    set_threads(config.threads)
    trackers = "none" if config.protocol == "lbfgs" else config.trackers
    accelerator = create_accelerator(config.mixed_precision, trackers, config.run_folder)
    parts = _prepare(config, accelerator)
    data, subject = parts["data"], parts["subject"]
    task = build_classification(config, subject, len(data.classes))
    if config.protocol == "lbfgs":
        return LinearEvaluation(**parts, task=task.to(accelerator.device), training=None)
    views = SUPERVISED_VIEWS[views_name(config)](
        subject.info.crop_size, subject.info.mean, subject.info.std
    )
    loader = build_train_loader(config, data.train, views, accelerator)
    place_model(task, config, accelerator)
    optimizer = build_classification_optimizer(config, task)
    if config.compile:
        task.compile()
    schedule = cosine_schedule(config, len(loader), final=0.0)
    training = Training(config, accelerator, task, optimizer, loader, schedule)
    return LinearEvaluation(**parts, task=task, training=training)
