"""A supervised training: build, train, measure; one run folder."""

from pathlib import Path
from typing import Any

from sslortho.data.first_rank import is_first_rank
from sslortho.evaluate import NonFiniteScoresError, Picture
from sslortho.evaluate.accuracy import leave_out_top5
from sslortho.models import write_backbone, write_classifier
from sslortho.models.own_networks import plain_network
from sslortho.optim.monitor import state_bytes
from sslortho.recipes.changed_inputs import find_finished
from sslortho.recipes.evaluation_report import (
    Results,
    describe_accuracy,
    inspect_run,
    write_results,
)
from sslortho.recipes.given import NOTHING, Given
from sslortho.recipes.plan import name_network
from sslortho.recipes.supervised.build import Supervised, build, read_inputs
from sslortho.recipes.supervised.continued import compare_features
from sslortho.recipes.supervised.options import SupervisedOptions
from sslortho.recipes.training import HeldTraining
from sslortho.runs.config_file import keep_fitted
from sslortho.runs.curves import draw_curves
from sslortho.runs.folder import RunFolder
from sslortho.runs.provenance import Session
from sslortho.train.backward import NonFiniteError
from sslortho.train.on_main import on_main
from sslortho.train.records import Record, read_metrics

TEST_FIGURES = ("top1", "top5", "test_loss")
"""Figures of the test images."""

HELD_OUT_FIGURES = ("val_top1", "val_top5", "val_loss")
"""Figures of the held-out training images."""


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
    folder.check_same(options)
    options = keep_fitted(options, folder.path)
    finished = find_finished(options, folder, lambda: read_inputs(options, given))
    if finished is not None:
        if is_first_rank():
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

    def write() -> None:
        if not diverged:
            write_classifier(run.task.classifier, folder.classifier)
            write_backbone(plain_network(run.task.backbone), folder.backbone, run.subject.info)
        network = name_network(options.backbone, run.task.backbone)
        title = f"{network}, supervised: {options.optim}, lr {options.lr:g}"
        draw_curves(folder.curves, {options.optim: records}, title)

    on_main(run.accelerator, write)
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
