"""Nearest neighbours on the features of a frozen backbone:
`python scripts/knn_eval.py --backbone_from runs/x --data cifar10 --data_dir D`.

Writes one run folder.
"""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sslortho.recipes.linear_eval.resolve import Evaluation, build_knn_evaluation, neighbours_and_temperature
from sslortho.recipes.evaluation_report import conclude
from sslortho.recipes.linear_eval.options import KnnEvalOptions
from sslortho.runs.config_file import check_same_run, to_yaml
from sslortho.recipes.command_line import parse_config, user_errors
from sslortho.evaluate import (
    NeighbourSearch,
    inspect_neighbours,
    extract_features,
    feature_batches,
    knn_accuracy,
    vote,
)
from sslortho.runs.folder import finished_summary, prepare_folder


def evaluate(
    run: Evaluation, config: KnnEvalOptions, folder: Path, started: float
) -> dict[str, Any]:
    """Features of both sets once, figures, pictures, report."""
    backbone, autocast = run.subject.backbone, run.autocast
    k, temperature = neighbours_and_temperature(config)
    classes = len(run.data.classes)
    test, labels = extract_features(backbone, run.test, autocast)
    search = NeighbourSearch(test, k)
    for features, _ in feature_batches(backbone, run.train_loader(), autocast):
        search.add(features)
    similarities, neighbours = search.result()
    voters = run.data.train.labels.to(neighbours.device)[neighbours]
    figures = knn_accuracy(similarities, voters, labels, classes, temperature)
    looks = None
    if config.pictures:
        predictions = vote(similarities, voters, classes, temperature).argmax(dim=1)
        looks = inspect_neighbours(test, labels, predictions, similarities, neighbours, config.seed)
    return conclude(
        run,
        folder,
        title="Nearest neighbours",
        protocol=f"Vote of the {k} nearest training images by cosine, each weighted by exp(cosine / "
        f"{temperature:g}), in evaluation views of {run.subject.info.crop_size} pixels "
        "(arXiv 1805.01978, section 3.4).",
        figures={f"knn_{name}": value for name, value in figures.items()},
        details={"k": k, "temperature": temperature},
        started=started,
        looks=looks,
    )


def tell(summary: dict[str, Any], folder: Path) -> None:
    """The final figures on the terminal."""
    print(f"{folder}: kNN top-1 {summary['knn_top1']:.2f} %   top-5 {summary['knn_top5']:.2f} %")
    print("  report.md, summary.json")


def main() -> None:
    started = time.time()
    config = parse_config(KnnEvalOptions)
    folder = config.run_folder
    with user_errors(config.debug), torch.no_grad():
        check_same_run(config, folder)
        if (summary := finished_summary(folder)) is not None:
            return tell(summary, folder)
        run = build_knn_evaluation(config)
        run.accelerator.print(run.subject.origin)
        prepare_folder(folder, run.accelerator, to_yaml(config), asdict(config))
        summary = evaluate(run, config, folder, started)
    if run.accelerator.is_main_process:
        tell(summary, folder)
    run.accelerator.end_training()


if __name__ == "__main__":
    main()
