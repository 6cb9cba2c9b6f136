"""The commands as Python functions: `sslortho.pretrain(...)`, `sslortho.knn_eval(...)`, ...

A function takes the options of its command by their names, checks them as the command line does, and
writes the same run folder; called again with the same options and folder it resumes, or returns the
finished run. Calls may follow each other in a process, and come from any thread; under a launcher of
several ranks every rank must call, and a process may have one call.
"""

import contextlib
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from sslortho.data.objects import load_pair
from sslortho.evaluate.feature_files import Features
from sslortho.evaluate.raw_images import Backbone, with_preprocessing
from sslortho.methods import Method
from sslortho.models import read_weights, restore_backbone, restore_module
from sslortho.models.backbones import Stem
from sslortho.options import GIVEN, to_arguments
from sslortho.recipes.command_line import create_options
from sslortho.recipes.embed.options import EmbedOptions
from sslortho.recipes.embed.run import run as run_embedding
from sslortho.recipes.given import Given
from sslortho.recipes.knn_eval.options import KnnEvalOptions
from sslortho.recipes.knn_eval.run import run as run_knn_eval
from sslortho.recipes.linear_eval.options import LinearEvalOptions
from sslortho.recipes.linear_eval.run import run as run_linear_eval
from sslortho.recipes.options import RunOptions
from sslortho.recipes.own_objects import check_place, options_class, take_objects
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.pretrain.run import run as run_pretraining
from sslortho.recipes.supervised.options import SupervisedOptions
from sslortho.recipes.supervised.run import run as run_supervised
from sslortho.runs.folder import RunFolder
from sslortho.runs.provenance import Session

PathLike = str | os.PathLike[str]

Images = tuple[Any, Any]
"""Images to train and to test on, as the caller has them; of the latter None for none."""

LABELLED = (SupervisedOptions, LinearEvalOptions, KnnEvalOptions)
"""Options of the commands that cannot do without labels."""


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
            for which Python's, NumPy's and torch's generators are seeded.

    Raises:
        ValueError: an unknown option or wrong value, a folder of another run, data or a machine that
            do not fit.
        RunStoppedError: Ctrl-C or a signal stopped it; it has saved, and the same call resumes.
        NonFiniteError: it diverged.
    """
    named, images = _name_data(data, test_data, options)
    values = {**named, "method": method, **_name_model(model, options)}
    return _train(PretrainOptions, run_pretraining, values, out, options, images)


def supervised(
    data: Any = "digits",
    model: str | None = None,
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
    named, images = _name_data(data, test_data, options)
    values = {**named, **_name_model(model, options)}
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
    named, images = _name_data(data, test_data, options)
    values = {"backbone_from": backbone_from, **named}
    return EvaluationResult(*_run(LinearEvalOptions, run_linear_eval, values, out, options, images))


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
    named, images = _name_data(data, test_data, options)
    values = {"backbone_from": backbone_from, **named}
    return EvaluationResult(*_run(KnnEvalOptions, run_knn_eval, values, out, options, images))


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
    named, images = _name_data(data, None, options)
    values = {"backbone_from": backbone_from, **named, "split": split, **options}
    values, given = take_objects({**values, **({} if out is None else {"out": out})})
    chosen = create_options(EmbedOptions, values)
    with _torch_as_before():
        return run_embedding(chosen, _add_images(given, images, chosen))


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
    file = read_weights(os.fspath(weights))
    with _torch_as_before():
        if isinstance(model, nn.Module):
            if stem is not None:
                raise ValueError(f"stem={stem!r} has no effect on a module; leave it out")
            return with_preprocessing(restore_module(file, model, weights_prefix))
        return with_preprocessing(restore_backbone(file, model, stem, weights_prefix).network)


def _name_data(
    data: Any, test_data: Any, options: Mapping[str, Any]
) -> tuple[dict[str, Any], Images | None]:
    """The options data and test_data, and the objects that stand in for them, if there are any.

    Raises ValueError for a path beside an object.
    """
    place = isinstance(data, str | os.PathLike)
    if place and (test_data is None or isinstance(test_data, str | os.PathLike)):
        return {"data": data, **({} if test_data is None else {"test_data": test_data})}, None
    if place:
        raise ValueError(
            f"data={data!r} is a path or name and test_data is not; give both as objects, such as lists of "
            "files"
        )
    if "data_dir" in options:
        raise ValueError(
            f"data_dir={options['data_dir']!r} is for data sets by name, and data is an object; leave it out"
        )
    return {"data": GIVEN}, (data, test_data)


def _name_model(model: str | nn.Module | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The option backbone, if it is given as `model`."""
    if model is None:
        return {}
    if "backbone" in options:
        raise ValueError(
            f"model={model!r} and backbone={options['backbone']!r} are one option; give one of them"
        )
    return {"backbone": model}


Run = Callable[..., dict[str, Any]]


def _add_images(given: Given, images: Images | None, options: RunOptions) -> Given:
    """The images too, if they are objects. Raises ValueError for objects that are no images."""
    if images is None:
        return given
    train, test = load_pair(*images, options, isinstance(options, LABELLED))
    return replace(given, train=train, test=test)


@contextlib.contextmanager
def _torch_as_before() -> Iterator[None]:
    """Restore torch's threads, deterministic mode and random state at the end: a call leaves none."""
    threads, generator = torch.get_num_threads(), torch.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    benchmark, products = torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()
    settings: Any = torch.utils.deterministic
    fill = settings.fill_uninitialized_memory
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(generator)
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = benchmark
        if torch.get_float32_matmul_precision() != products:
            torch.set_float32_matmul_precision(products)
        settings.fill_uninitialized_memory = fill


def _run(
    cls: type[RunOptions],
    run: Run,
    values: Mapping[str, Any],
    out: PathLike | None,
    options: Mapping[str, Any],
    images: Images | None,
) -> tuple[dict[str, Any], Path]:
    """Run a command; its summary as the file has it, and its folder."""
    values = {**values, **({} if out is None else {"out": out}), **options}
    values, given = take_objects(values)
    chosen = create_options(options_class(cls, given), values)
    command = shlex.join(["sslortho", cls.command, *to_arguments(values, type(chosen))])
    with _torch_as_before():
        summary = run(chosen, Session(command), _add_images(given, images, chosen))
    folder = chosen.run_folder
    return RunFolder(folder).read_summary() or summary, folder


def _train(
    cls: type[RunOptions],
    run: Run,
    values: Mapping[str, Any],
    out: PathLike | None,
    options: Mapping[str, Any],
    images: Images | None,
) -> TrainingResult:
    summary, folder = _run(cls, run, values, out, options, images)
    model = {**values, **options}.get("backbone")
    network = model if isinstance(model, nn.Module) else None
    backbone = None if summary.get("diverged") else load_backbone(folder, network)
    return TrainingResult(backbone, summary, folder)
