"""Loaders of image sets for the ranks of an Accelerator."""

from collections.abc import Sequence

from accelerate import Accelerator

from sslortho.augment import EvaluationSpec, ViewSpec
from sslortho.data import EvaluationLoader, ImageSet, TensorLoader, ViewLoader, loading
from sslortho.data.loading import (  # noqa: F401
    LabelledData,
    check_classes,
    evaluation_views,
    load_labelled_data,
    load_test_set,
    load_training_set,
)
from sslortho.recipes.options import BackboneOptions, RunOptions, TrainingOptions


def _rank(accelerator: Accelerator) -> loading.Rank:
    return loading.Rank(accelerator.device, accelerator.process_index, accelerator.num_processes)


def choose_training_images(options: BackboneOptions, data: LabelledData) -> LabelledData:
    """Forward."""
    return loading.choose_training_images(options, data, options.train_percent, options.train_list)


def build_train_loader(
    options: TrainingOptions, data: ImageSet, views: Sequence[ViewSpec], accelerator: Accelerator
) -> TensorLoader | ViewLoader:
    """Random views of the training set, this rank's share; see `data.loading.create_train_loader`."""
    return loading.create_train_loader(
        options, data, views, options.batch_size, _rank(accelerator), options.accumulation_steps
    )


def build_evaluation_loader(
    options: RunOptions, data: ImageSet, spec: EvaluationSpec, accelerator: Accelerator
) -> EvaluationLoader:
    """The evaluation view of a data set, this rank's share."""
    return loading.create_evaluation_loader(options, data, spec, _rank(accelerator))
