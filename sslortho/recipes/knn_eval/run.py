"""A kNN evaluation of a frozen backbone; one run folder."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslortho.augment.published_views import create_views
from sslortho.augment.views import ViewSpec
from sslortho.data import EvaluationLoader
from sslortho.data.first_rank import is_first_rank
from sslortho.data.loading import create_crop_loader
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
from sslortho.recipes.backbone import SMALL_CROP
from sslortho.recipes.changed_inputs import find_finished
from sslortho.recipes.evaluation import (
    Evaluation,
    build_evaluation,
    hash_backbone,
    identify,
    read_inputs,
)
from sslortho.recipes.evaluation_report import Results, describe_accuracy, write_results
from sslortho.recipes.given import NOTHING, Given
from sslortho.recipes.knn_eval.options import KnnEvalOptions
from sslortho.runs.folder import RunFolder
from sslortho.runs.inputs import write_tables
from sslortho.runs.provenance import Session
from sslortho.runs.status import status_of
from sslortho.train.launch import join_ranks, shard_of
from sslortho.train.on_main import on_main


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
    finished = find_finished(
        options, folder, lambda: read_inputs(options, given), lambda: hash_backbone(options)
    )
    if finished is not None:
        if is_first_rank():
            tell(finished, folder.path)
        return finished
    k, temperature = resolve(options)
    evaluation = build(options, k, given)
    accelerator = evaluation.accelerator
    accelerator.print(evaluation.subject.origin)
    folder.prepare(accelerator, options)
    with status_of(folder.path, accelerator.is_main_process):
        results = _measure(evaluation, options, k, temperature)
        inputs = identify(evaluation.data, evaluation.subject)
        on_main(accelerator, lambda: write_tables(folder.images, inputs))
        summary = write_results(evaluation, folder, results, session, {"inputs": inputs.state()})
    if accelerator.is_main_process:
        tell(summary, folder.path)
    accelerator.end_training()
    return summary


def _measure(run: Evaluation, options: KnnEvalOptions, k: int, temperature: float) -> Results:
    """Extract the features of both sets once, and vote; once more where `crops` asks for it."""
    train = run.evaluation_loader(run.data.train)
    found = _vote(run, train, run.test, k, temperature)
    figures = {f"knn_{name}": value for name, value in found.figures.items()}
    protocol = (
        f"Vote of the {k} nearest training images by cosine, each weighted by exp(cosine / "
        f"{temperature:g}), in evaluation views of {run.subject.info.crop_size} pixels "
        "(arXiv 1805.01978, section 3.4)."
    )
    details: dict[str, Any] = {"k": k, "temperature": temperature}
    crops = options.crops
    if crops is not None:
        shard, view = shard_of(run.accelerator), _crop_view(run)
        train, test = (
            create_crop_loader(options, images, view, crops, shard)
            for images in (run.data.train, run.data.test)
        )
        others = _vote(run, train, test, k, temperature).figures
        figures |= {f"crops_knn_{name}": value for name, value in others.items()}
        protocol += (
            f" Figures of crops: of the mean of features over {crops} random crops of each image."
        )
        details["crops"] = crops
    inspection = None
    if options.pictures:
        predictions = vote(
            found.similarities, found.voters, len(run.data.classes), temperature
        ).argmax(dim=1)
        inspection = inspect_neighbours(
            found.test,
            found.labels,
            predictions,
            found.similarities,
            found.neighbours,
            options.seed,
        )
    return Results(
        title="Nearest neighbours",
        protocol=protocol,
        figures=figures,
        details=details,
        inspection=inspection,
    )


@dataclass(frozen=True)
class _Votes:
    """Test images, their nearest training images, and how often these were right."""

    test: Tensor
    """Features (m, dim)."""
    labels: Tensor
    """int64 (m,), the true classes."""
    similarities: Tensor
    """Cosines (m, k), nearest first."""
    neighbours: Tensor
    """int64 (m, k), rows of the training set."""
    voters: Tensor
    """int64 (m, k), their classes."""
    figures: dict[str, float]
    """top1 and, of more than five classes, top5 in percent."""


def _vote(
    run: Evaluation,
    train_loader: EvaluationLoader,
    test_loader: EvaluationLoader,
    k: int,
    temperature: float,
) -> _Votes:
    """Extract the features that the loaders lead to, and find neighbours."""
    backbone, autocast, classes = run.subject.backbone, run.autocast, len(run.data.classes)
    test, labels = extract_features(backbone, test_loader, autocast)
    search = NeighbourSearch(test, k)
    for features, _ in feature_batches(backbone, train_loader, autocast):
        search.add(features)
    similarities, neighbours = search.result()
    voters = run.data.train.labels.to(neighbours.device)[neighbours]
    figures = knn_accuracy(similarities, voters, labels, classes, temperature)
    figures = leave_out_top5(figures, classes)
    return _Votes(test, labels, similarities, neighbours, voters, figures)


def _crop_view(run: Evaluation) -> ViewSpec:
    """Random crop of the method emp_ssl, at the size and with the normalisation of the backbone."""
    info = run.subject.info
    small = "_digits" if run.options.data == "digits" else "_small"
    name = "emp_ssl" + (small if info.crop_size <= SMALL_CROP else "")
    return replace(create_views(name, info.crop_size)[0], mean=info.mean, std=info.std)


def tell(summary: dict[str, Any], folder: Path) -> None:
    """Print the final figures."""
    print(f"{folder}: kNN {describe_accuracy(summary, 'knn_')}")
    if "crops_knn_top1" in summary:
        crops = summary["details"]["crops"]
        print(f"  of {crops} crops: {describe_accuracy(summary, 'crops_knn_')}")
    print("  report.md, summary.json")
