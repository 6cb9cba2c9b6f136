"""From the arguments of a Python function to a run of its command: see `api`."""

import contextlib
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sslortho.data.objects import load_pair
from sslortho.options import GIVEN, to_arguments
from sslortho.recipes.command_line import create_options
from sslortho.recipes.given import Given
from sslortho.recipes.knn_eval.options import KnnEvalOptions
from sslortho.recipes.linear_eval.options import LinearEvalOptions
from sslortho.recipes.options import RunOptions
from sslortho.recipes.own_objects import options_class, take_objects
from sslortho.recipes.supervised.options import SupervisedOptions
from sslortho.runs.folder import RunFolder
from sslortho.runs.provenance import Session

PathLike = str | os.PathLike[str]

Images = tuple[Any, Any]
"""Images to train and to test on, as the caller has them; of the latter None for none."""

LABELLED = (SupervisedOptions, LinearEvalOptions, KnnEvalOptions)
"""Options of the commands that cannot do without labels."""


def split_data(
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


def name_model(model: str | nn.Module | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The option backbone, if it is given as `model`."""
    if model is None:
        return {}
    if "backbone" in options:
        raise ValueError(
            f"model={model!r} and backbone={options['backbone']!r} are one option; give one of them"
        )
    return {"backbone": model}


Run = Callable[..., dict[str, Any]]


def add_images(given: Given, images: Images | None, options: RunOptions) -> Given:
    """The images too, if they are objects. Raises ValueError for objects that are no images."""
    if images is None:
        return given
    train, test = load_pair(*images, options, isinstance(options, LABELLED))
    return replace(given, train=train, test=test)


@contextlib.contextmanager
def torch_as_before() -> Iterator[None]:
    """Restore torch's threads, deterministic mode and random state at the end: a call leaves none.

    The random state is that of the CPU and, where CUDA is in use already, of every GPU.
    """
    threads, generator = torch.get_num_threads(), torch.get_rng_state()
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, products = torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()
    settings: Any = torch.utils.deterministic
    fill = settings.fill_uninitialized_memory
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(generator)
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)
        torch.use_deterministic_algorithms(deterministic, warn_only=warns)
        torch.backends.cudnn.benchmark = benchmark
        if torch.get_float32_matmul_precision() != products:
            torch.set_float32_matmul_precision(products)
        settings.fill_uninitialized_memory = fill


def run_call(
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
    with torch_as_before():
        summary = run(chosen, Session(command), add_images(given, images, chosen))
    folder = chosen.run_folder
    return RunFolder(folder).read_summary() or summary, folder
