"""A pretraining run: build, train, measure; one run folder."""

from dataclasses import dataclass, replace
from typing import Any

from accelerate import Accelerator

from sslortho.data import ImageSet, hold_out
from sslortho.data.first_rank import is_first_rank
from sslortho.data.loading import (
    check_workers,
    create_train_loader,
    load_test_set,
    load_training_set,
)
from sslortho.methods.task import Task
from sslortho.models import BackboneInfo, write_backbone
from sslortho.models.own_networks import plain_network
from sslortho.models.placement import place_network
from sslortho.optim.schedules import cosine_schedule
from sslortho.recipes.changed_inputs import find_finished
from sslortho.recipes.fitted import settled, to_plain
from sslortho.recipes.given import NOTHING, Given
from sslortho.recipes.identity import identify_objects
from sslortho.recipes.initial_weights import keep_first_layer, layer_factors
from sslortho.recipes.plan import name_network
from sslortho.recipes.pretrain.evaluations import Evaluations, create_evaluations
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.pretrain.plan import plan_pretraining
from sslortho.recipes.pretrain.probe import Probe, create_probe
from sslortho.recipes.pretrain.report import tell, write_pretraining_report
from sslortho.recipes.pretrain.resolve import PretrainRecipe, find_machine, resolve
from sslortho.recipes.pretrain.verdict import Watch, judge
from sslortho.recipes.training import HeldTraining, Training, compile_task
from sslortho.runs.config_file import keep_fitted
from sslortho.runs.curves import curve_names, draw_curves
from sslortho.runs.folder import RunFolder
from sslortho.runs.inputs import Inputs, collect_tables
from sslortho.runs.provenance import Session, provenance
from sslortho.train.backward import NonFiniteError
from sslortho.train.launch import join_ranks, shard_of
from sslortho.train.loading_turns import load_in_turn
from sslortho.train.on_main import on_main
from sslortho.train.options import TrainResult
from sslortho.train.records import read_metrics
from sslortho.train.sharding import check_sharding


@dataclass(frozen=True)
class Pretraining:
    """Everything that a pretraining run is made of."""

    recipe: PretrainRecipe
    accelerator: Accelerator
    training: Training
    evaluations: Evaluations
    probe: Probe
    """Cheap figures without labels, of every pretraining."""


def _load(
    options: PretrainOptions, given: Given
) -> tuple[ImageSet, ImageSet | None, ImageSet | None]:
    """Images to train on, to test on, and those held out. Raises ValueError as the options do."""
    train = load_training_set(options, given.train)
    test = load_test_set(options, given.test, train)
    check_workers(options, train, test)
    if options.validation is None:
        return train, test, None
    train, held_out = hold_out(train, options.validation, options.seed)
    return train, test, held_out


def _read_inputs(options: PretrainOptions, given: Given) -> Inputs:
    """Identity of the images that the options name. Raises ValueError as they do."""
    return identify_objects(resolve(options, given), collect_tables(*_load(options, given)))


def build(options: PretrainOptions, given: Given = NOTHING) -> Pretraining:
    """Resolve the options, load the data and create everything, on every rank.

    Args:
        options: of the run.
        given: objects in place of what they name.

    Raises ValueError for a user's mistake.
    """
    machine = find_machine()
    # mistakes are found before data that may take minutes
    precision = settled(resolve(options, given, machine=machine).options.mixed_precision)
    accelerator = join_ranks(options, options.run_folder, precision, options.trackers)
    if options.shard:
        check_sharding(accelerator)
    shard = shard_of(accelerator)
    with load_in_turn(accelerator):
        train, test, held_out = _load(options, given)
    recipe = resolve(options, given, len(train), machine, max(train.first_size))
    options = recipe.options
    evaluations = create_evaluations(recipe, accelerator, shard, train, test, held_out)
    batch_size = settled(options.batch_size)
    loader = create_train_loader(
        options, train, recipe.views, batch_size, shard, options.accumulation_steps
    )
    task = recipe.create_task()
    place_network(
        task,
        shard.device,
        channels_last=options.channels_last,
        sync_batch_norm=options.sync_batch_norm and shard.count > 1,
    )
    if options.keep_stem:
        keep_first_layer(task)
    factors = None if options.layer_decay is None else layer_factors(task, options.layer_decay)
    optimizer = recipe.optimizer.over(task, recipe.lr_biases, factors)
    compile_task(task, options)
    steps = len(loader) // options.accumulation_steps
    # down to a thousandth, as facebookresearch/barlowtwins
    epochs, warmup = settled(options.epochs), settled(options.warmup_epochs)
    schedule = cosine_schedule(epochs, steps, warmup, final=1e-3)
    return Pretraining(
        recipe,
        accelerator,
        training=Training(
            options,
            accelerator,
            task,
            optimizer,
            loader,
            schedule,
            identify_objects(recipe, collect_tables(train, test, held_out)),
            chosen=to_plain(recipe.chosen),
            plan=plan_pretraining(
                recipe,
                accelerator,
                {"to train on": train, "to test on": test, "held out": held_out},
                task,
                steps,
            ),
        ),
        evaluations=evaluations,
        probe=create_probe(recipe, shard.device, held_out or train, task, epochs * steps),
    )


def run(options: PretrainOptions, session: Session, given: Given = NOTHING) -> dict[str, Any]:
    """Pretrain, or resume; the content of summary.json. Every rank must call.

    Args:
        options: of the run; its folder is `options.run_folder`.
        session: command and start, for summary.json.
        given: objects that a Python caller hands over.

    Raises:
        ValueError: a user's mistake, a folder of another run.
        RunStoppedError: a signal stopped it; it can resume.
        NonFiniteError, RankLostError, OSError: as `Trainer.run`.
    """
    folder = RunFolder(options.run_folder)
    folder.check_same(options)
    options = keep_fitted(options, folder.path)
    finished = find_finished(options, folder, lambda: _read_inputs(options, given))
    if finished is not None:
        if is_first_rank():
            tell(finished, folder.path)
        return finished
    pretraining = build(options, given)
    accelerator, training = pretraining.accelerator, pretraining.training
    if given.backbone is not None:
        accelerator.print(pretraining.recipe.backbone)
    watch = Watch(folder, pretraining.recipe.options.values(), accelerator.is_main_process)

    def evaluate(task: Task) -> dict[str, float]:
        figures = pretraining.probe.measure(task)
        watch.look(figures)
        return {**figures, **pretraining.evaluations.online(task)}

    with training.hold(folder) as held:
        try:
            result = held.complete(evaluate)
        except NonFiniteError as error:
            watch.tell_failure(error)
            raise
        summary = _finish(pretraining, held, result, session)
    if accelerator.is_main_process:
        tell(summary, folder.path)
    accelerator.end_training()
    return summary


def _finish(
    run: Pretraining, held: HeldTraining, result: TrainResult, session: Session
) -> dict[str, Any]:
    """Write weights, pictures and final figures; the summary."""
    folder = held.folder
    recipe, backbone = run.recipe, run.training.task.backbone
    options, view = recipe.options, recipe.views[0]
    info = BackboneInfo(
        backbone=recipe.backbone.name,
        stem=recipe.backbone.stem,
        crop_size=settled(options.crop_size),
        mean=view.mean,
        std=view.std,
    )
    on_main(  # first the weights, whatever the evaluations may do
        run.accelerator, lambda: write_backbone(plain_network(backbone), folder.backbone, info)
    )
    summary: dict[str, Any] = {
        "loss": result.loss,
        **run.evaluations.final(run.training.task),
        **_measure_before(run),
        **result.costs,
        "steps": result.step,
        **provenance(run.accelerator, session),
        **held.about,
        "config": options.values(),
    }
    return on_main(run.accelerator, lambda: _conclude(run, folder, summary))


def _conclude(run: Pretraining, folder: RunFolder, summary: dict[str, Any]) -> dict[str, Any]:
    """Write the curves, report.md and at last summary.json, which has the verdict too; the summary."""
    verdict = judge(folder, summary)
    summary = {**summary, "verdict": verdict.values()}
    options, backbone = run.recipe.options, run.training.task.backbone
    network = name_network(run.recipe.backbone.name, backbone)
    title = (
        f"{network}, {options.method}: {options.optim}, lr {options.lr:g}. Verdict: {verdict.name}"
    )
    records = read_metrics(folder.metrics, curve_names())
    draw_curves(folder.curves, {options.optim: records}, title)
    write_pretraining_report(folder, summary, verdict, options.data_name)
    folder.write_summary(summary)
    return summary


def _measure_before(run: Pretraining) -> dict[str, float]:
    """Figures before the training: untrained_*, and with initial weights initial_*."""
    untrained = replace(run.recipe, weights=None)
    recipes = {"untrained": untrained}
    if run.recipe.weights is not None:
        recipes["initial"] = run.recipe
    found: dict[str, float] = {}
    for state, recipe in recipes.items():
        figures = run.evaluations.final(recipe.create_task().to(run.accelerator.device))
        found |= {f"{state}_{name}": value for name, value in figures.items()}
    return found
