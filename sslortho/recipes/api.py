"""The commands as Python functions: `sslortho.pretrain(...)`, `sslortho.knn_eval(...)`, ...

A function takes the options of its command by their names, checks them as the command line does, and
writes the same run folder; called again with the same options and folder it resumes, or returns the
finished run. Calls may follow each other in a process, and come from any thread; under a launcher of
several ranks every rank must call, and a process may have one call.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from sslortho.evaluate.feature_files import Features
from sslortho.evaluate.raw_images import Backbone, with_preprocessing
from sslortho.methods import Method
from sslortho.models import read_weights, restore_backbone, restore_module
from sslortho.models.backbones import Stem
from sslortho.models.weights.argument_name import argument_named
from sslortho.recipes.calls import (
    Images,
    PathLike,
    Run,
    add_images,
    name_model,
    run_call,
    split_data,
    torch_as_before,
)
from sslortho.recipes.command_line import create_options
from sslortho.recipes.embed.options import EmbedOptions
from sslortho.recipes.embed.run import run as run_embedding
from sslortho.recipes.knn_eval.options import KnnEvalOptions
from sslortho.recipes.knn_eval.run import run as run_knn_eval
from sslortho.recipes.linear_eval.options import LinearEvalOptions
from sslortho.recipes.linear_eval.run import run as run_linear_eval
from sslortho.recipes.options import RunOptions
from sslortho.recipes.own_objects import check_place, take_objects
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.pretrain.run import run as run_pretraining
from sslortho.recipes.supervised.options import SupervisedOptions
from sslortho.recipes.supervised.run import run as run_supervised


@dataclass(frozen=True)
class TrainingResult:
    """A finished training."""

    backbone: Backbone | None
    """Trained backbone on the CPU, in evaluation mode: images (batch, 3, height, width) to features
    (batch, dim), and with `embed` raw images too. None if the training diverged."""
    summary: dict[str, Any] = field(repr=False)
    """Content of summary.json: the figures, options and provenance."""
    folder: Path
    """Run folder."""


@dataclass(frozen=True)
class EvaluationResult:
    """A finished evaluation."""

    summary: dict[str, Any] = field(repr=False)
    """Content of summary.json: the figures, options and provenance."""
    folder: Path
    """Run folder."""


def pretrain(
    data: Any = "digits",
    model: str | nn.Module | None = None,
    *,
    test_data: Any = None,
    method: str | type[Method] = "barlow_twins",
    out: PathLike | None = None,
    **options: Any,
) -> TrainingResult:
    """Pretrain a backbone without labels, or resume: the command `pretrain`.

    Args:
        data: images to train on. A folder as it is, a file, or the name of a data set, as the command's
            option; a list of files; an array or tensor, (n, height, width), (n, height, width, channels)
            or (n, channels, height, width); a torch Dataset, or any object with `__len__` and
            `__getitem__`; a Hugging Face data set; or a pair of one of these and its labels. A run that
            resumes must be given the same images again.
        model: the option backbone, such as "resnet50" or "timm:NAME", or a module from images (batch, 3,
            height, width) to features (batch, dim). A map (batch, dim, height, width) is averaged over
            its places; of transformers' models the pooled output or the class token is taken. A copy is
            trained, and the module stays as it is. Default: the command's.
        method: barlow_twins, simclr, vicreg, byol, simsiam, moco_v2, dino, lejepa or emp_ssl, or a subclass of
            `sslortho.methods.Method`.
        test_data: images to test on, likewise. Default: those that a folder, a name or a DatasetDict has.
        out: run folder. Default: as the command's.
        options: others of the command, by name; `sslortho pretrain --help` lists them. `projector` may be
            a module, or a function from the number of features to one; `views` a list of
            `sslortho.augment.ViewSpec`, or of callables from a PIL image to a float tensor (3, size, size),
            for which Python's, NumPy's and torch's generators are seeded. Evaluation normalises as the last
            `Normalize` of a callable, also in a composition; a function that normalises by itself needs
            attributes `mean` and `std`.

    Raises:
        ValueError: an unknown option or wrong value, a folder of another run, data or a machine that
            do not fit.
        RunStoppedError: Ctrl-C or a signal stopped it; it has saved, and the same call resumes.
        NonFiniteError: it diverged.
    """
    named, images = split_data(data, test_data, options)
    values = {**named, "method": method, **name_model(model, options)}
    return _train(PretrainOptions, run_pretraining, values, out, options, images)


def supervised(
    data: Any = "digits",
    model: str | nn.Module | None = None,
    *,
    test_data: Any = None,
    out: PathLike | None = None,
    **options: Any,
) -> TrainingResult:
    """Train a classifier from scratch, or resume: the command `supervised`.

    A training that diverges is a result too: its summary has "diverged" true.

    Args:
        data, test_data, model, out: as for `pretrain`; labels are needed.
        options: others of the command, by name; `sslortho supervised --help` lists them.

    Raises ValueError and RunStoppedError as `pretrain`.
    """
    named, images = split_data(data, test_data, options)
    values = {**named, **name_model(model, options)}
    return _train(SupervisedOptions, run_supervised, values, out, options, images)


def linear_eval(
    backbone_from: PathLike | nn.Module,
    data: Any = "digits",
    *,
    test_data: Any = None,
    out: PathLike | None = None,
    **options: Any,
) -> EvaluationResult:
    """Evaluate a backbone by a linear classifier, or fine-tune it: the command `linear_eval`.

    Args:
        backbone_from: run folder or file of weights; a module from images to features, such as
            `pretrain(...).backbone`; "random": initial weights of `backbone`.
        data, test_data, out: as for `pretrain`; labels are needed.
        options: others of the command, by name; `sslortho linear_eval --help` lists them.

    Raises ValueError, RunStoppedError and NonFiniteError as `pretrain`.
    """
    named, images = split_data(data, test_data, options)
    values = {"backbone_from": backbone_from, **named}
    return EvaluationResult(
        *run_call(LinearEvalOptions, run_linear_eval, values, out, options, images)
    )


def knn_eval(
    backbone_from: PathLike | nn.Module,
    data: Any = "digits",
    *,
    test_data: Any = None,
    out: PathLike | None = None,
    **options: Any,
) -> EvaluationResult:
    """Evaluate a backbone by nearest neighbours: the command `knn_eval`.

    Args:
        backbone_from, data, test_data, out: as for `linear_eval`.
        options: others of the command, by name; `sslortho knn_eval --help` lists them.

    Raises ValueError as `pretrain`.
    """
    named, images = split_data(data, test_data, options)
    values = {"backbone_from": backbone_from, **named}
    return EvaluationResult(*run_call(KnnEvalOptions, run_knn_eval, values, out, options, images))


def extract_features(
    backbone_from: PathLike | nn.Module,
    data: Any = "digits",
    *,
    split: Literal["train", "test"] | None = None,
    out: PathLike | None = None,
    **options: Any,
) -> Features:
    """Features of the evaluation views of a data set, by a frozen backbone: the command `embed`.

    Args:
        backbone_from, data: as for `linear_eval`; labels are not needed.
        split: which images of the data set. Default: of a data set by name the test images; of images of your
            own those to test on, or all where there are none.
        out: file to write, .npz, .parquet or .npy, row by row: killed and called again with the same
            images and weights, it computes what is missing. The features of a .npy are mapped into memory.
            Default: none, they stay in memory.
        options: of the backbone, the data and the file, by their names; `sslortho embed --help` lists them.

    Raises ValueError as `pretrain`, for data without test images, and for a file of other images or weights.
    """
    named, images = split_data(data, None, options)
    values = {"backbone_from": backbone_from, **named, "split": split, **options}
    values, given = take_objects({**values, **({} if out is None else {"out": out})})
    chosen = create_options(EmbedOptions, values)
    with torch_as_before():
        return run_embedding(chosen, add_images(given, images, chosen))


def load_backbone(
    weights: PathLike,
    model: str | nn.Module | None = None,
    *,
    stem: Stem | None = None,
    weights_prefix: str | None = None,
) -> Backbone:
    """Backbone of a run or of a file, on the CPU, in evaluation mode, with its own preprocessing.

    `model(images)` maps normalised images (batch, 3, height, width) to features (batch, dim), as every
    module of torch. `model.embed(images)` takes raw ones: a path, a PIL image, uint8 pixels, or a list of
    these. `model.preprocess(image)` is the step before: the image's shorter side is resized, its central
    square cut out, its levels from 0 to 255 divided by 255, minus the mean, over the deviation that the weights
    were pretrained with; `sslortho.Preprocessing` says it exactly. Weights of others that do not say their size
    and normalisation get 224 pixels and ImageNet's, and a warning.

    Args:
        weights: run folder, or file of ours, torchvision, timm, facebookresearch/barlowtwins, lightly
            or solo-learn.
        model: name of the backbone, or timm:NAME. Default: as the file says, else recognised. Or a module
            of the same architecture, which is copied: it is needed where a run has trained a module.
        stem: stock, small or solo_learn. Default: likewise; needed for a 3x3 first convolution whose
            padding the file does not say.
        weights_prefix: beginning of the names in the file; needed if several networks in it fit.

    Raises ValueError for a file that cannot be read, and weights that do not fit.
    """
    check_place("weights", weights)
    with argument_named("weights"), torch_as_before():
        file = read_weights(os.fspath(weights))
        if isinstance(model, nn.Module):
            if stem is not None:
                raise ValueError(f"stem={stem!r} has no effect on a module; leave it out")
            return with_preprocessing(restore_module(file, model, weights_prefix))
        return with_preprocessing(restore_backbone(file, model, stem, weights_prefix).network)


def _train(
    cls: type[RunOptions],
    run: Run,
    values: Mapping[str, Any],
    out: PathLike | None,
    options: Mapping[str, Any],
    images: Images | None,
) -> TrainingResult:
    summary, folder = run_call(cls, run, values, out, options, images)
    model = {**values, **options}.get("backbone")
    network = model if isinstance(model, nn.Module) else None
    backbone = None if summary.get("diverged") else load_backbone(folder, network)
    return TrainingResult(backbone, summary, folder)
