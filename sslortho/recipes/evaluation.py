"""Parts that linear evaluation, kNN evaluation and supervised training share."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from sslortho.augment import EvaluationSpec, ViewSpec
from sslortho.augment.views import evaluation_spec
from sslortho.data import EvaluationLoader, ImageSet
from sslortho.data.labelled import LabelledData, choose_training_images, load_labelled_data
from sslortho.data.loading import create_evaluation_loader, evaluation_views
from sslortho.data.subsets import choose_some
from sslortho.evaluate import evaluate_classifier
from sslortho.evaluate.accuracy import leave_out_top5
from sslortho.methods import Classification
from sslortho.models.network_facts import evaluation_mode
from sslortho.options import GIVEN
from sslortho.recipes.backbone import Subject, check_source, load_subject
from sslortho.recipes.given import NOTHING, Given
from sslortho.recipes.options import BackboneOptions, RunOptions
from sslortho.recipes.training import Training
from sslortho.runs.inputs import Inputs, collect_tables, hash_tensors
from sslortho.train.launch import shard_of
from sslortho.train.loading_turns import load_in_turn

LARGE_CROP = 224
"""Side of the views in pixels where neither the weights nor the images give another."""


def native_size(data: ImageSet) -> int:
    """Side of the views in pixels that fits the images: their own where they are small, else 224."""
    return min(data.first_size) if data.holds_small_images else LARGE_CROP


@dataclass(frozen=True)
class Evaluation:
    """A backbone, and the evaluation views of the images that it is evaluated on."""

    options: RunOptions
    accelerator: Accelerator
    data: LabelledData
    subject: Subject
    spec: EvaluationSpec
    test: EvaluationLoader
    """Evaluation views of the test images; of the held-out ones where there are none to test on."""

    def autocast(self) -> AbstractContextManager[None]:
        """The context that the backbone runs in: mixed precision."""
        return self.accelerator.autocast()

    def some_training_images(self, most: int) -> ImageSet:
        """At most this many of the training images, chosen by seed, in their order."""
        return choose_some(self.data.train, most, self.options.seed)

    def evaluation_loader(self, data: ImageSet) -> EvaluationLoader:
        """Evaluation views of other images, this rank's share."""
        return create_evaluation_loader(self.options, data, self.spec, shard_of(self.accelerator))

    def evaluation_views(self, data: ImageSet, indices: Tensor) -> Tensor:
        """Evaluation views (n, 3, size, size) of the samples `indices`, normalised, on the CPU."""
        return evaluation_views(self.options, data, self.spec, indices)


@dataclass(frozen=True)
class ClassifierTraining(Evaluation):
    """An evaluation whose classifier is trained by the loop, alone or with the backbone."""

    task: Classification
    training: Training

    def evaluate(self, task: Classification) -> dict[str, float]:
        """top1, test_loss and, of more than five classes, top5 on the test images."""
        return self.measure(task, self.test)

    def measure(self, task: Classification, loader: EvaluationLoader) -> dict[str, float]:
        """The same on other images."""
        with evaluation_mode(task), self.autocast():
            figures = evaluate_classifier(task.classify, loader)
        return leave_out_top5(figures, task.classifier.out_features)


def place_subject(
    options: BackboneOptions, data: ImageSet, accelerator: Accelerator, given: Given = NOTHING
) -> tuple[Subject, EvaluationSpec]:
    """The backbone that the options name, on the device, and the evaluation view that fits it.

    Args:
        options: which backbone.
        data: images that the view is for, unless options or weights give another size.
        accelerator: says which device.
        given: objects that a Python caller hands over.

    Raises ValueError for weights that do not fit, or views of a size that the backbone does not take.
    """
    subject = load_subject(options, native_size(data), given)
    info = subject.info
    view = ViewSpec(crop_size=info.crop_size, blur_p=0.0, mean=info.mean, std=info.std)
    subject.backbone.to(accelerator.device)
    if options.channels_last:
        subject.backbone.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return subject, evaluation_spec(view, data.holds_small_images)


def identify(
    data: LabelledData,
    subject: Subject | None,
    held_out: ImageSet | None = None,
    *,
    classifies: bool = False,
) -> Inputs:
    """Identity of images and weights.

    Args:
        data: images to train and to test on.
        subject: the backbone, if a file may have given its weights.
        held_out: images held out of the training images.
        classifies: see `Inputs`.
    """
    weights = None
    if subject is not None and subject.restored:
        weights = hash_tensors(subject.backbone.state_dict())
    return Inputs(collect_tables(data.train, data.tested, held_out), weights, classifies)


def _load(options: BackboneOptions, given: Given) -> LabelledData:
    check_source(options)
    data = load_labelled_data(options, given.images)
    return choose_training_images(options, data, options.train_percent, options.train_list)


def read_inputs(options: BackboneOptions, given: Given = NOTHING) -> Inputs:
    """Identity of the images and weights that the options name. Raises ValueError as they do."""
    data = _load(options, given)
    return identify(data, load_subject(options, native_size(data.train), given))


def hash_backbone(options: BackboneOptions) -> str | None:
    """Hash of the weights at the path that the options name, as in `identify`; None if they cannot be read."""
    if options.backbone_from in ("random", GIVEN):
        return None
    try:
        subject = load_subject(options, LARGE_CROP)  # the size does not change the weights
    except (ValueError, OSError):
        return None
    return hash_tensors(subject.backbone.state_dict())


def build_evaluation(
    options: BackboneOptions, accelerator: Accelerator, given: Given = NOTHING
) -> Evaluation:
    """Load the data and the backbone, on every rank. Raises ValueError for a user's mistake."""
    with load_in_turn(accelerator):
        data = _load(options, given)
    subject, spec = place_subject(options, data.train, accelerator, given)
    return Evaluation(
        options=options,
        accelerator=accelerator,
        data=data,
        subject=subject,
        spec=spec,
        test=create_evaluation_loader(options, data.test, spec, shard_of(accelerator)),
    )
