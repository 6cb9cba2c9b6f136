"""Protocol lbfgs: logistic regression on features that are extracted once."""

from typing import Any

from sslortho.evaluate import (
    HELD_OUT,
    AccuracyCounts,
    LogisticRegression,
    Selection,
    Table,
    extract_features,
    inspect_features,
    local_features,
    select_l2,
)
from sslortho.evaluate.accuracy import leave_out_top5
from sslortho.models import write_classifier
from sslortho.recipes.evaluation import Evaluation, build_evaluation, identify
from sslortho.recipes.evaluation_report import Results, write_results
from sslortho.recipes.given import NOTHING, Given
from sslortho.recipes.linear_eval.options import LinearEvalOptions
from sslortho.runs.folder import RunFolder
from sslortho.runs.inputs import write_tables
from sslortho.runs.provenance import Session
from sslortho.train.launch import join_ranks
from sslortho.train.on_main import on_main


def build_fast_probe(options: LinearEvalOptions, given: Given = NOTHING) -> Evaluation:
    """Load data and weights, on every rank. Raises ValueError for a user's mistake."""
    return build_evaluation(
        options, join_ranks(options, options.run_folder, options.mixed_precision), given
    )


def _describe(held_out: float, probe: LogisticRegression, selection: Selection | None) -> str:
    """The protocol in words."""
    chosen = "as given"
    if selection is not None:
        share = 100 * held_out
        chosen = f"the best of {len(selection.trials)} on {share:g} % of the training images"
    end = "to its optimum" if probe.converged else f"stopped after {probe.iterations} iterations"
    return (
        f"Fast probe: logistic regression, by L-BFGS {end}, on standardised features of the "
        f"evaluation view that were extracted once; l2 {probe.l2:g}, {chosen}, then fitted to all of "
        "them. This is not the published linear evaluation, which trains by SGD on random crops."
    )


def run_fast_probe(
    run: Evaluation, options: LinearEvalOptions, folder: RunFolder, session: Session
) -> dict[str, Any]:
    """Extract features, fit, write classifier, report and summary; the summary."""
    backbone, autocast, classes = run.subject.backbone, run.autocast, len(run.data.classes)
    features, labels = local_features(backbone, run.evaluation_loader(run.data.train), autocast)
    test, truth = extract_features(backbone, run.test, autocast)
    held_out, seed = options.held_out or HELD_OUT, options.seed
    l2, selection = options.l2, None
    if l2 is None:
        selection = select_l2(features, labels, held_out=held_out, seed=seed, classes=classes)
        l2 = selection.l2
    probe = LogisticRegression(features, labels, l2, classes=classes)
    counts = AccuracyCounts(logits=True)
    counts.add(probe.logits(test), truth)
    on_main(run.accelerator, lambda: write_classifier(probe.as_linear(), folder.classifier))
    inspection = None
    if options.pictures:
        inspection = inspect_features(test, truth, probe.predict(test), features.split(512), seed)
    details = {"l2": l2, "iterations": probe.iterations, "converged": probe.converged}
    results = Results(
        title="Fast probe",
        protocol=_describe(held_out, probe, selection),
        figures={
            **leave_out_top5(counts.percentages(), classes),
            "test_loss": counts.mean_loss(),
        },
        details=details if selection is None else {**details, "l2_at_edge": selection.at_edge},
        ignored=options.without_effect,
        inspection=inspection,
        tables=[] if selection is None else [_list_trials(selection)],
    )
    inputs = identify(run.data, run.subject)
    on_main(run.accelerator, lambda: write_tables(folder.images, inputs))
    return write_results(run, folder, results, session, {"inputs": inputs.state()})


def _list_trials(selection: Selection) -> Table:
    header = ("l2", "held-out top-1 (%)", "held-out loss", "converged")
    rows = [(t.l2, t.top1, t.loss, t.converged) for t in selection.trials]
    return Table("Choice of l2", header, rows)
