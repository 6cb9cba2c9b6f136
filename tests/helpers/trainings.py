"""Short trainings by the parts that the scripts are made of, and how far apart two of them end."""

import os
import signal
from pathlib import Path

import torch
from accelerate.state import AcceleratorState

from sslortho.methods.task import create_method
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.pretrain.run import build
from sslortho.recipes.supervised.build import build as build_supervised
from sslortho.recipes.supervised.options import SupervisedOptions
from sslortho.recipes.training import HeldTraining
from sslortho.runs.folder import RunFolder

QUIET = {"threads": 1, "trackers": "none", "evaluate_every": 0}
PRETRAIN = {
    **QUIET, "subset": 100, "batch_size": 20, "epochs": 1, "backbone": "basic_cnn", "lr": 20.0,
    "projector": "16-16", "warmup_epochs": 0,
}  # fmt: skip
SUPERVISED = {
    **QUIET, "subset": 16, "batch_size": 8, "epochs": 1, "backbone": "vit_small_32",
    "crop_size": 32, "optim": "orth_sgd", "lr": 0.01,
}  # fmt: skip


def train(folder, supervised=False, stopped=False, **options) -> dict:
    """A training by the parts that the scripts are made of, where it began and where it ended.

    `stopped`: by a signal in the evaluation before the first step, to go on by another call with the
    same folder.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    folder.mkdir(parents=True, exist_ok=True)
    evaluations = []

    def evaluate(task) -> dict[str, float]:
        evaluations.append(task)
        if stopped:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    if supervised:
        config = SupervisedOptions(out=str(folder), **{**SUPERVISED, **options})
        training = build_supervised(config).training
    else:
        training = build(PretrainOptions.of(out=str(folder), **{**PRETRAIN, **options})).training
    task = training.task
    start = [p.detach().clone() for p in task.parameters()]
    result = HeldTraining(training, RunFolder(folder)).run(evaluate)
    assert result.stopped_by == (signal.SIGTERM if stopped else None)
    return {
        "start": start,
        "end": [p.detach() for p in task.parameters()],
        "state": {name: value.detach() for name, value in task.state_dict().items()},
        "step": result.step,
        "evaluations": len(evaluations),
    }


def task_of(recipe):
    """Model and loss of a resolved pretraining, on the CPU."""
    return create_method(recipe.method, recipe.backbone, recipe.view_sizes, recipe.options)


def optimizer_of(recipe, task):
    """Its optimizer over a task."""
    return recipe.optimizer.over(task, lr_biases=recipe.lr_biases)


def same_bits(ours: dict, theirs: dict) -> bool:
    """Compare two trainings: steps, parameters, and statistics of batch norm."""
    pairs = zip(ours["state"].values(), theirs["state"].values(), strict=True)
    return ours["step"] == theirs["step"] and all(torch.equal(a, b) for a, b in pairs)


def farthest(ours: list, theirs: list, matrices: bool) -> float:
    """Largest difference of any matrix, or else of any bias or norm."""
    pairs = zip(ours, theirs, strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs if (a.ndim > 1) == matrices)


def drift(ours: dict, theirs: dict) -> float:
    """The larger one of that of matrices and that of biases and norms, which go at other rates."""
    assert ours["step"] == theirs["step"]
    assert all(torch.equal(a, b) for a, b in zip(ours["start"], theirs["start"], strict=True))
    return max(
        farthest(ours["end"], theirs["end"], kind) / farthest(theirs["end"], theirs["start"], kind)
        for kind in (True, False)
    )


def trainings_of_rank(rank: int, folder: Path, trainings: dict) -> dict[str, dict]:
    """All of them one after the other, as a process that torchrun has started."""
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2",
        MASTER_ADDR="localhost", OMP_NUM_THREADS="1",
    )  # fmt: skip
    return {name: train(folder / name, **options) for name, options in trainings.items()}
