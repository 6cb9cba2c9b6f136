"""A kNN evaluation of a frozen backbone; one run folder."""

from pathlib import Path
from typing import Any

import torch

from sslortho.evaluate import (
    PRESETS,
    NeighbourSearch,
    extract_features,
    feature_batches,
    inspect_neighbours,
    knn_accuracy,
    vote,
)
from sslortho.evaluate.accuracy import leave_out_top5
from sslortho.recipes.changed_inputs import find_finished
from sslortho.recipes.evaluation import Evaluation, build_evaluation, identify, read_inputs
from sslortho.recipes.evaluation_report import Results, describe_accuracy, write_results
from sslortho.recipes.given import NOTHING, Given
from sslortho.recipes.knn_eval.options import KnnEvalOptions
from sslortho.runs.folder import RunFolder
from sslortho.runs.inputs import write_tables
from sslortho.runs.provenance import Session
from sslortho.runs.status import status_of
from sslortho.train.launch import join_ranks


def resolve(options: KnnEvalOptions) -> tuple[int, float]:
    """Number of neighbours, and temperature of their votes."""
    k, temperature = PRESETS[options.preset or "dino"]
    return options.k or k, options.temperature or temperature


def build(options: KnnEvalOptions, k: int, given: Given = NOTHING) -> Evaluation:
    """Load data and weights, on every rank.

    Raises ValueError for a user's mistake, such as more neighbours `k` than training images.
    """
    evaluation = build_evaluation(
        options, join_ranks(options, options.run_folder, options.mixed_precision), given
    )
    images = len(evaluation.data.train)
    if k > images:
        raise ValueError(f"k={k} is more than the {images} training images; lower it")
    return evaluation


@torch.no_grad()
def run(options: KnnEvalOptions, session: Session, given: Given = NOTHING) -> dict[str, Any]:
    """Evaluate a backbone; the content of summary.json. Every rank must call.

    Args:
        options: of the run; its folder is `options.run_folder`.
        session: command and start, for summary.json.
        given: objects that a Python caller hands over.

    Raises ValueError for a user's mistake, and for a folder of another run.
    """
    folder = RunFolder(options.run_folder)
    folder.check_same(options)
    finished = find_finished(options, folder, lambda: read_inputs(options, given))
    if finished is not None:
        tell(finished, folder.path)
        return finished
    k, temperature = resolve(options)
    evaluation = build(options, k, given)
    accelerator = evaluation.accelerator
    accelerator.print(evaluation.subject.origin)
    folder.prepare(accelerator, options)
    with status_of(folder.path, accelerator.is_main_process):
        results = _measure(evaluation, options.pictures, k, temperature)
        inputs = identify(evaluation.data, evaluation.subject)
        if accelerator.is_main_process:
            write_tables(folder.images, inputs)
        summary = write_results(evaluation, folder, results, session, {"inputs": inputs.state()})
    if accelerator.is_main_process:
        tell(summary, folder.path)
    accelerator.end_training()
    return summary


def _measure(run: Evaluation, pictures: bool, k: int, temperature: float) -> Results:
    """Extract the features of both sets once, and vote."""
    backbone, autocast, seed = run.subject.backbone, run.autocast, run.options.seed
    classes = len(run.data.classes)
    test, labels = extract_features(backbone, run.test, autocast)
    search = NeighbourSearch(test, k)
    for features, _ in feature_batches(backbone, run.evaluation_loader(run.data.train), autocast):
        search.add(features)
    similarities, neighbours = search.result()
    voters = run.data.train.labels.to(neighbours.device)[neighbours]
    figures = knn_accuracy(similarities, voters, labels, classes, temperature)
    figures = leave_out_top5(figures, classes)
    inspection = None
    if pictures:
        predictions = vote(similarities, voters, classes, temperature).argmax(dim=1)
        inspection = inspect_neighbours(test, labels, predictions, similarities, neighbours, seed)
    return Results(
        title="Nearest neighbours",
        protocol=f"Vote of the {k} nearest training images by cosine, each weighted by exp(cosine / "
        f"{temperature:g}), in evaluation views of {run.subject.info.crop_size} pixels "
        "(arXiv 1805.01978, section 3.4).",
        figures={f"knn_{name}": value for name, value in figures.items()},
        details={"k": k, "temperature": temperature},
        inspection=inspection,
    )


def tell(summary: dict[str, Any], folder: Path) -> None:
    """Print the final figures."""
    print(f"{folder}: kNN {describe_accuracy(summary, 'knn_')}")
    print("  report.md, summary.json")
