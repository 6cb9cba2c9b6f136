"""A pretraining run: build, train, measure; one run folder."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from sslortho.augment.views import evaluation_spec
from sslortho.data import EvaluationLoader, ImageSet
from sslortho.evaluate import FrozenEvaluation
from sslortho.methods.task import Task
from sslortho.models import write_backbone
from sslortho.recipes.data import (
    build_evaluation_loader,
    build_train_loader,
    load_test_set,
    load_training_set,
)
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.pretrain.resolve import PretrainRecipe, resolve
from sslortho.recipes.training import Training, cosine_schedule, join_ranks, place_model
from sslortho.runs.curves import draw_curves
from sslortho.runs.folder import RunFolder
from sslortho.runs.provenance import Session, provenance
from sslortho.runs.status import status_of
from sslortho.train.options import TrainResult
from sslortho.train.records import read_metrics


@dataclass(frozen=True)
class Pretraining:
    """Everything that a pretraining run is made of."""

    recipe: PretrainRecipe
    accelerator: Accelerator
    training: Training
    evaluation: FrozenEvaluation

    def evaluate_online(self, task: Task) -> dict[str, float]:
        """Figures during training."""
        return self.evaluation.online(task.backbone)


def _build_evaluation(
    recipe: PretrainRecipe, train: ImageSet, test: ImageSet | None, accelerator: Accelerator
) -> FrozenEvaluation:
    """kNN, linear probe and collapse measures on the training and the test images."""
    options = recipe.options

    def loader(images: ImageSet) -> EvaluationLoader:
        spec = evaluation_spec(recipe.views[0], images.holds_small_images)
        return build_evaluation_loader(options, images, spec, accelerator)

    labelled = test is not None and bool((train.labels >= 0).all())
    return FrozenEvaluation(
        train=loader(train),
        test=loader(test) if test and labelled else None,
        knn_k=options.knn_k,
        knn_temperature=options.knn_temperature,
        linear_probe=options.linear_probe,
    )


def build(recipe: PretrainRecipe) -> Pretraining:
    """Load the data and create everything that the recipe says, on every rank.

    Raises ValueError for a user's mistake.
    """
    options = recipe.options
    accelerator = join_ranks(options, options.mixed_precision, options.trackers)
    with accelerator.local_main_process_first():  # the others find what it downloaded
        train, test = load_training_set(options), load_test_set(options)
    loader = build_train_loader(options, train, recipe.views, accelerator)
    task = recipe.create_task()
    place_model(task, options, accelerator)
    optimizer = recipe.create_optimizer(task)
    if options.compile:
        task.compile()
    # down to a thousandth, as facebookresearch/barlowtwins
    schedule = cosine_schedule(options, len(loader), final=1e-3)
    return Pretraining(
        recipe=recipe,
        accelerator=accelerator,
        training=Training(options, accelerator, task, optimizer, loader, schedule),
        evaluation=_build_evaluation(recipe, train, test, accelerator),
    )


def run(options: PretrainOptions, session: Session) -> dict[str, Any]:
    """Pretrain, or resume; the content of summary.json. Every rank must call.

    Args:
        options: of the run; its folder is `options.run_folder`.
        session: command and start, for summary.json.

    Raises:
        ValueError: a user's mistake, a folder of another run.
        RunStoppedError: a signal stopped it; it can resume.
        NonFiniteError, RankLostError, OSError: as `Trainer.run`.
    """
    folder = RunFolder(options.run_folder)
    folder.check_same(options)
    if (finished := folder.finished_summary()) is not None:
        tell(finished, folder.path)
        return finished
    pretraining = build(resolve(options))
    accelerator, training = pretraining.accelerator, pretraining.training
    views = next(iter(training.loader)).views if accelerator.is_main_process else None
    folder.prepare(accelerator, options, views)
    with status_of(folder.path, accelerator.is_main_process):
        labelled = pretraining.evaluation.test is not None
        result = training.complete(folder.path, pretraining.evaluate_online if labelled else None)
        summary = _finish(pretraining, folder, result, session)
    if accelerator.is_main_process:
        tell(summary, folder.path)
    accelerator.end_training()
    return summary


def _untrained_figures(run: Pretraining) -> dict[str, float]:
    """The final figures of the backbone as it was before training."""
    backbone: nn.Module = run.recipe.create_backbone().to(run.accelerator.device)
    return run.evaluation.final(backbone)


def _finish(
    run: Pretraining, folder: RunFolder, result: TrainResult, session: Session
) -> dict[str, Any]:
    """Write weights, pictures and final figures; the summary."""
    backbone, options = run.training.task.backbone, run.recipe.options
    if run.accelerator.is_main_process:  # first what cannot fail
        write_backbone(backbone, folder.backbone, run.recipe.info)
        records = read_metrics(folder.metrics, {"loss", "knn_top1"})
        draw_curves(folder.curves, {options.optim: records})
    figures = run.evaluation.final(backbone)
    before = _untrained_figures(run)
    summary: dict[str, Any] = {
        "loss": result.loss,
        **figures,
        **{f"untrained_{name}": value for name, value in before.items()},
        "images_per_second": result.images_per_second,
        "steps": result.step,
        **provenance(run.accelerator, session),
        "config": options.values(),
    }
    if run.accelerator.is_main_process:
        folder.write_summary(summary)
    return summary


def tell(summary: dict[str, Any], folder: Path) -> None:
    """Print the final figures."""
    loss = math.nan if summary["loss"] is None else summary["loss"]
    print(f"{folder}: loss {loss:.4g} after {summary['steps']} steps")
    names = {"knn_top1": "kNN top-1 (%)", "linear_top1": "linear top-1 (%)",
             "rankme": "RankMe", "feature_std": "feature std"}  # fmt: skip
    for name, label in names.items():
        if name in summary:
            before = summary[f"untrained_{name}"]
            print(f"  {label:17} {summary[name]:8.2f}   untrained {before:8.2f}")
    print("  views.png, curves.png, metrics.jsonl, summary.json, backbone.safetensors")
