"""A supervised training: build, train, measure; one run folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from sslortho.augment.views import evaluation_spec
from sslortho.data import EvaluationLoader, ImageSet, hold_out
from sslortho.data.loading import (
    LabelledData,
    check_classes,
    create_evaluation_loader,
    create_train_loader,
    load_labelled_data,
)
from sslortho.evaluate import NonFiniteScoresError, Picture
from sslortho.evaluate.accuracy import leave_out_top5
from sslortho.methods import Classification
from sslortho.models import write_backbone, write_classifier
from sslortho.models.own_networks import plain_network
from sslortho.models.placement import place_network
from sslortho.optim.monitor import state_bytes
from sslortho.recipes.backbone import Subject
from sslortho.recipes.changed_inputs import find_finished
from sslortho.recipes.evaluation import ClassifierTraining, identify
from sslortho.recipes.evaluation_report import (
    Results,
    describe_accuracy,
    inspect_run,
    write_results,
)
from sslortho.recipes.fitted import Choice, choose_batch, fill, settled, to_plain
from sslortho.recipes.given import NOTHING, Given
from sslortho.recipes.identity import identify_weights
from sslortho.recipes.initial_weights import keep_first_layer
from sslortho.recipes.plan import describe_optimizer, describe_views, name_network, plan_training
from sslortho.recipes.supervised.continued import compare_features
from sslortho.recipes.supervised.options import SupervisedOptions
from sslortho.recipes.supervised.resolve import (
    SupervisedRecipe,
    create_schedule,
    resolve,
    resolve_supervised_optimizer,
)
from sslortho.recipes.training import HeldTraining, Training, compile_task
from sslortho.runs.config_file import keep_fitted
from sslortho.runs.curves import draw_curves
from sslortho.runs.folder import RunFolder
from sslortho.runs.inputs import Inputs
from sslortho.runs.provenance import Session
from sslortho.train.backward import NonFiniteError
from sslortho.train.launch import join_ranks, shard_of
from sslortho.train.records import Record, read_metrics
from sslortho.train.sharding import check_sharding

USUAL_BATCH = 128
"""Samples of a step where the option is left out and there are as many images."""

TEST_FIGURES = ("top1", "top5", "test_loss")
"""Figures of the test images."""

HELD_OUT_FIGURES = ("val_top1", "val_top5", "val_loss")
"""Figures of the held-out training images."""


@dataclass(frozen=True)
class Supervised(ClassifierTraining):
    """Everything that a supervised run is made of."""

    recipe: SupervisedRecipe
    held_out: EvaluationLoader | None
    """Evaluation views of the held-out training images."""

    def evaluate_online(self, task: Classification) -> dict[str, float]:
        """Figures of the held-out images (val_top1, ...) if there are some, else of the test images."""
        if self.held_out is None:
            return self.evaluate(task)
        figures = self.measure(task, self.held_out)
        return {f"val_{name.removeprefix('test_')}": value for name, value in figures.items()}


def _load(options: SupervisedOptions, given: Given) -> tuple[LabelledData, ImageSet | None]:
    """Images to train and to test on, and those held out."""
    data = load_labelled_data(options, given.images)
    if options.validation is None:
        return check_classes(options, data), None
    train, held_out = hold_out(data.train, options.validation, options.seed)
    return check_classes(options, LabelledData(train, data.test, data.classes)), held_out


def _read_inputs(options: SupervisedOptions, given: Given) -> Inputs:
    """Identity of the images that the options name. Raises ValueError as they do."""
    data, held_out = _load(options, given)
    recipe = resolve(options, data, resolve_supervised_optimizer(options), given)
    return _identify(recipe, data, held_out)


def _identify(recipe: SupervisedRecipe, data: LabelledData, held_out: ImageSet | None) -> Inputs:
    """Identity of images, and of the initial weights where a module or a file gives them."""
    inputs = identify(data, None, held_out, classifies=True)
    fixed = recipe.given.backbone is not None or recipe.weights is not None
    return identify_weights(inputs, recipe.given, recipe.start.create if fixed else None)


def _build_training(
    recipe: SupervisedRecipe,
    accelerator: Accelerator,
    task: Classification,
    images: ImageSet,
    test: ImageSet,
    inputs: Inputs,
    chosen: Mapping[str, Choice],
) -> Training:
    options = recipe.options
    loader = create_train_loader(
        options,
        images,
        (recipe.view,),
        settled(options.batch_size),
        shard_of(accelerator),
        options.accumulation_steps,
    )
    place_network(
        task,
        accelerator.device,
        channels_last=options.channels_last,
        sync_batch_norm=options.sync_batch_norm and accelerator.num_processes > 1,
    )
    if options.keep_stem:
        keep_first_layer(task)
    optimizer = recipe.create_optimizer(task)
    compile_task(task, options)
    schedule = create_schedule(options, len(loader))
    plan = plan_training(
        options,
        accelerator,
        {"to train on": images, "to test on": test},
        f"{name_network(recipe.info.backbone, task.backbone)} ({recipe.info.stem} stem)",
        task,
        describe_optimizer(options, recipe.optimizer.lr, per_256=False),
        len(loader) // options.accumulation_steps,
        chosen,
        {"views": f"{recipe.view_name}, {describe_views((recipe.view,))}"},
    )
    return Training(
        options, accelerator, task, optimizer, loader, schedule, inputs, to_plain(chosen), plan
    )


def build(options: SupervisedOptions, given: Given = NOTHING) -> Supervised:
    """Load the data, decide what they decide, and create everything, on every rank.

    Args:
        options: of the run.
        given: objects in place of what they name.

    Raises ValueError for a user's mistake.
    """
    # mistakes are found before data that may take minutes
    optimizer = resolve_supervised_optimizer(options)
    fill(options, choose_batch(options, USUAL_BATCH, USUAL_BATCH))
    folder = options.run_folder
    accelerator = join_ranks(options, folder, options.mixed_precision, options.trackers)
    if options.shard:
        check_sharding(accelerator)
    with accelerator.local_main_process_first():  # the others find what it downloaded
        data, held_out = _load(options, given)
    chosen = choose_batch(options, USUAL_BATCH, len(data.train))
    options = fill(options, chosen)
    recipe = resolve(options, data, optimizer, given)
    task = recipe.create_task()
    beginning = "from scratch" if recipe.weights is None else f"from {options.initial_weights}"
    origin = f"trained {beginning}, seed {options.seed}"
    spec = evaluation_spec(recipe.view, data.train.holds_small_images)

    def evaluation_loader(images: ImageSet) -> EvaluationLoader:
        return create_evaluation_loader(options, images, spec, shard_of(accelerator))

    inputs = _identify(recipe, data, held_out)
    return Supervised(
        options=options,
        accelerator=accelerator,
        data=data,
        subject=Subject(task.backbone, recipe.info, task.classifier.in_features, origin),
        spec=spec,
        test=evaluation_loader(data.test),
        task=task,
        training=_build_training(recipe, accelerator, task, data.train, data.test, inputs, chosen),
        recipe=recipe,
        held_out=None if held_out is None else evaluation_loader(held_out),
    )


def run(options: SupervisedOptions, session: Session, given: Given = NOTHING) -> dict[str, Any]:
    """Train a classifier, or resume; the content of summary.json. Every rank must call.

    A training that diverges is finished too: its summary has "diverged" true and no accuracy, and its
    folder has no weights.

    Args:
        options: of the run; its folder is `options.run_folder`.
        session: command and start, for summary.json.
        given: objects that a Python caller hands over.

    Raises:
        ValueError: a user's mistake, a folder of another run.
        RunStoppedError: a signal stopped it; it can resume.
        RankLostError, OSError: as `Trainer.run`.
    """
    folder = RunFolder(options.run_folder)
    options = keep_fitted(options, folder.path)
    folder.check_same(options)
    finished = find_finished(options, folder, lambda: _read_inputs(options, given))
    if finished is not None:
        tell(finished, folder.path)
        return finished
    supervised = build(options, given)
    accelerator, training = supervised.accelerator, supervised.training
    with training.hold(folder) as held:
        measured: dict[str, Any] | Exception
        try:
            measured = _train(supervised, held)
        except (NonFiniteError, NonFiniteScoresError) as error:
            measured = error
        summary = _finish(supervised, held, measured, session)
    if accelerator.is_main_process:
        tell(summary, folder.path)
    accelerator.end_training()
    return summary


def _train(run: Supervised, held: HeldTraining) -> dict[str, Any]:
    """Train and measure the network of the last epoch.

    Raises NonFiniteError or NonFiniteScoresError if it diverges.
    """
    result = held.complete(run.evaluate_online)
    figures = _measure(run, read_metrics(held.folder.metrics))
    return {**figures, **result.costs}


def _measure(run: Supervised, records: list[Record]) -> dict[str, Any]:
    """Figures of the trained network, of the held-out and the test images."""
    options, names = run.recipe.options, (*TEST_FIGURES, *HELD_OUT_FIGURES)
    figures: dict[str, Any] = {}
    if options.evaluate_every:  # then at the end of the last epoch too
        figures = {k: v for record in records for k, v in record.items() if k in names}
    else:
        figures = run.evaluate_online(run.task)
    if options.validation is not None and options.test:
        figures |= run.evaluate(run.task)
    return {name: figures[name] for name in names if name in figures}


def _measure_diverged(run: Supervised) -> dict[str, Any]:
    """The same of a network that has diverged: no figure has a value."""
    options = run.recipe.options
    tested = TEST_FIGURES if options.test else ()
    held_out = HELD_OUT_FIGURES if options.validation is not None else ()
    figures: dict[str, Any] = dict.fromkeys((*tested, *held_out, "images_per_second"))
    return leave_out_top5(figures, run.task.classifier.out_features)


def _find_last(records: list[Record], name: str) -> Any:
    return next((r[name] for r in reversed(records) if r.get(name) is not None), None)


def _measure_size(run: Supervised) -> dict[str, int]:
    """Size of the network, and of what the optimizer keeps beside it."""
    parameters = [p for p in run.task.parameters() if p.requires_grad]
    return {
        "parameters": sum(p.numel() for p in parameters),
        "parameter_bytes": sum(p.numel() * p.element_size() for p in parameters),
        "optimizer_state_bytes": state_bytes(run.training.optimizer),
    }


def _describe(run: Supervised) -> str:
    """The protocol in words."""
    options, info = run.recipe.options, run.subject.info
    defaults = run.training.optimizer.defaults
    inertia = "".join(
        f", {name} {defaults[name]}" for name in ("momentum", "betas") if name in defaults
    )
    held_out = ""
    if options.validation is not None:
        held_out = f" {100 * options.validation:g} % of the training images were held out."
    beginning = "from scratch" if run.recipe.weights is None else f"from {options.initial_weights}"
    return (
        f"{options.backbone} ({info.stem} stem) {beginning}: {options.optim}, {options.epochs} epochs "
        f"in batches of {options.batch_size}, rate {options.lr:g} ({options.schedule}){inertia}, weight "
        f"decay {options.weight_decay:g} (biases and norms {options.weight_decay_biases:g}), "
        f"{run.recipe.view_name} views of {info.crop_size} pixels.{held_out} The result is that of the "
        "last epoch."
    )


def _finish(
    run: Supervised, held: HeldTraining, measured: dict[str, Any] | Exception, session: Session
) -> dict[str, Any]:
    """Write weights, pictures, report and summary; the summary.

    Args:
        run: the training.
        held: its run folder.
        measured: figures, or the error if it diverged.
        session: command and start.
    """
    options, folder = run.recipe.options, held.folder
    records = read_metrics(folder.metrics)
    diverged, protocol = isinstance(measured, Exception), _describe(run)
    if run.accelerator.is_main_process:
        network = name_network(options.backbone, run.task.backbone)
        title = f"{network}, supervised: {options.optim}, lr {options.lr:g}"
        draw_curves(folder.curves, {options.optim: records}, title)
        if not diverged:
            write_classifier(run.task.classifier, folder.classifier)
            write_backbone(plain_network(run.task.backbone), folder.backbone, run.subject.info)
    continued: dict[str, float] = {}
    if options.test and not diverged and run.recipe.weights is not None:
        continued = compare_features(run, run.recipe.start.create())
    figures = {
        **(_measure_diverged(run) if isinstance(measured, Exception) else measured),
        **{name: _find_last(records, name) for name in ("loss", "train_top1")},
        **continued,
        "steps": _find_last(records, "step") or 0,
        **_measure_size(run),
    }
    inspects = options.pictures and options.test and not diverged
    inspection, neighbours = inspect_run(run) if inspects else (None, None)
    results = Results(
        title="Supervised classification",
        protocol=f"{protocol} It diverged: {measured}" if diverged else protocol,
        figures=figures,
        status={"diverged": diverged},
        details={"view": run.recipe.view_name},
        inspection=inspection,
        neighbours=neighbours,
        pictures=[
            Picture(folder.curves, "Training loss and accuracy against steps."),
            Picture(folder.views, "Training views of a few images."),
        ],
    )
    return write_results(run, folder, results, session, held.about)


def tell(summary: dict[str, Any], folder: Path) -> None:
    """Print the final figures."""
    if summary["diverged"]:
        steps = summary["steps"]
        print(f"{folder}: diverged after {steps} steps; report.md and summary.json say how")
        return
    for kind, name in (("", "test"), ("val_", "held out")):
        if f"{kind}top1" in summary:
            loss = summary["val_loss" if kind else "test_loss"]
            print(f"{folder}: {name}: {describe_accuracy(summary, kind)}   loss {loss:.4f}")
    if "initial_knn_top1" in summary:
        after, before = summary["knn_top1"], summary["initial_knn_top1"]
        print(
            f"  kNN top-1 of the features: {after:.2f} %, with the initial weights {before:.2f} %"
        )
    print("  report.md, summary.json, curves.png, backbone.safetensors, classifier.safetensors")
