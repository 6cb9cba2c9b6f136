"""Protocol sgd: a classifier trained on random crops, alone or with the backbone."""

from dataclasses import dataclass
from typing import Any

from sslortho.data.loading import create_train_loader
from sslortho.evaluate import Picture
from sslortho.models import write_backbone, write_classifier
from sslortho.models.own_networks import plain_network
from sslortho.models.placement import place_network
from sslortho.optim.schedules import cosine_schedule
from sslortho.recipes.evaluation import ClassifierTraining, build_evaluation, identify
from sslortho.recipes.evaluation_report import Results, inspect_run, write_results
from sslortho.recipes.fitted import choose_batch, fill, settled, to_plain
from sslortho.recipes.given import NOTHING, Given
from sslortho.recipes.linear_eval.options import LinearEvalOptions
from sslortho.recipes.linear_eval.resolve import USUAL_BATCH, LinearEvalRecipe, resolve
from sslortho.recipes.plan import describe_optimizer, describe_views, name_network, plan_training
from sslortho.recipes.training import HeldTraining, Training, compile_task
from sslortho.runs.curves import draw_curves
from sslortho.runs.folder import RunFolder
from sslortho.runs.provenance import Session
from sslortho.train.launch import join_ranks, shard_of
from sslortho.train.on_main import on_main
from sslortho.train.options import TrainResult
from sslortho.train.records import read_metrics
from sslortho.train.sharding import check_sharding


@dataclass(frozen=True)
class LinearEvaluation(ClassifierTraining):
    """Everything that a linear evaluation or fine-tuning by SGD is made of."""

    recipe: LinearEvalRecipe


def build_linear_evaluation(options: LinearEvalOptions, given: Given = NOTHING) -> LinearEvaluation:
    """Load data and weights and create everything, on every rank.

    Raises ValueError for a user's mistake.
    """
    # mistakes are found before data that may take minutes
    resolve(fill(options, choose_batch(options, USUAL_BATCH, USUAL_BATCH)))
    folder = options.run_folder
    accelerator = join_ranks(options, folder, options.mixed_precision, options.trackers)
    if options.shard:
        check_sharding(accelerator)
    evaluation = build_evaluation(options, accelerator, given)
    subject, data = evaluation.subject, evaluation.data
    chosen = choose_batch(options, USUAL_BATCH, len(data.train))
    options = fill(options, chosen)
    recipe = resolve(options)
    views = recipe.create_views(subject.info)
    loader = create_train_loader(
        options,
        data.train,
        views,
        settled(options.batch_size),
        shard_of(accelerator),
        options.accumulation_steps,
    )
    task = recipe.create_task(subject, len(data.classes))
    place_network(
        task,
        accelerator.device,
        channels_last=options.channels_last,
        sync_batch_norm=options.sync_batch_norm and accelerator.num_processes > 1,
    )
    optimizer = recipe.create_optimizer(task)
    compile_task(task, options)
    schedule = cosine_schedule(
        options.epochs, len(loader) // options.accumulation_steps, options.warmup_epochs, final=0.0
    )
    inputs = identify(data, subject, classifies=True)
    network = name_network(subject.info.backbone, task.backbone)
    plan = plan_training(
        options,
        accelerator,
        {"to train on": data.train, "to test on": data.test},
        f"{network}, {'frozen' if task.freeze_backbone else 'trained too'}",
        task,
        describe_optimizer(options, recipe.optimizer.lr, per_256=True),
        len(loader) // options.accumulation_steps,
        chosen,
        {"views": f"{recipe.view_name}, {describe_views(views)}"},
    )
    training = Training(
        options, accelerator, task, optimizer, loader, schedule, inputs, to_plain(chosen), plan
    )
    known = {**vars(evaluation), "options": options}
    return LinearEvaluation(**known, task=task, training=training, recipe=recipe)


def _describe(recipe: LinearEvalRecipe, crop_size: int) -> str:
    """The protocol in words."""
    options = recipe.options
    if recipe.lr_backbone is None:
        trained, rates = "Linear classifier on the frozen backbone", f"rate {options.lr:g}"
    else:
        trained = "Fine-tuning of backbone and classifier"
        rates = f"rates {recipe.lr_backbone:g} and {options.lr:g}"
    return (
        f"{trained}: {options.optim}, {options.epochs} epochs in batches of {options.batch_size}, "
        f"{rates} per 256 images with a cosine to 0, weight decay {options.weight_decay:g}, "
        f"{recipe.view_name} views of {crop_size} pixels. The result is that of the last epoch."
    )


def run_training(run: LinearEvaluation, folder: RunFolder, session: Session) -> dict[str, Any]:
    """Train, write weights, report and summary; the summary.

    Raises RunStoppedError, NonFiniteError, RankLostError and OSError as `HeldTraining.complete`, and
    ValueError as `Training.hold`.
    """
    with run.training.hold(folder) as held:
        result = held.complete(run.evaluate)
        return _finish(run, held, result, session)


def _finish(
    run: LinearEvaluation, held: HeldTraining, result: TrainResult, session: Session
) -> dict[str, Any]:
    """Write weights, report and summary; the summary."""
    folder = held.folder
    task, info = run.task, run.subject.info

    def write() -> None:
        write_classifier(task.classifier, folder.classifier)
        if not task.freeze_backbone:
            write_backbone(plain_network(task.backbone), folder.backbone, info)

    on_main(run.accelerator, write)
    figures = _measure(run, folder, result)
    inspection, neighbours = inspect_run(run) if run.recipe.options.pictures else (None, None)
    results = Results(
        title="Linear evaluation" if task.freeze_backbone else "Fine-tuning",
        protocol=_describe(run.recipe, info.crop_size),
        figures=figures,
        inspection=inspection,
        neighbours=neighbours,
        pictures=[
            Picture(folder.curves, "Training loss and test accuracy against steps."),
            Picture(folder.views, "Training views of a few images."),
        ],
    )
    return write_results(run, folder, results, session, held.about)


def _measure(run: LinearEvaluation, folder: RunFolder, result: TrainResult) -> dict[str, Any]:
    """Figures of the last epoch and of the best one; the main process draws the curves."""
    options = run.recipe.options
    evaluated = options.evaluate_every > 0  # then at the end of the last epoch too
    figures = {} if evaluated else run.evaluate(run.task)
    records = read_metrics(folder.metrics)
    seen = [record for record in records if "top1" in record] or [figures]
    network = name_network(run.subject.info.backbone, run.task.backbone)
    kind = "linear evaluation" if run.task.freeze_backbone else "fine-tuning"
    title = f"{network}, {kind}: {options.optim}, lr {options.lr:g}"
    on_main(run.accelerator, lambda: draw_curves(folder.curves, {options.optim: records}, title))
    return {
        **{name: seen[-1][name] for name in ("top1", "top5", "test_loss") if name in seen[-1]},
        "best_top1": max(record.get("top1") or 0 for record in seen),
        "loss": result.loss,
        **result.costs,
        "steps": result.step,
    }
