"""Nearest neighbours on the features of a frozen backbone:
`python scripts/knn_eval.py --backbone_from runs/x --data cifar10 --data_dir D`.

Writes one run folder.
"""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslortho.build import KnnEvaluation, build_knn_evaluation, conclude
from sslortho.config import KnnEvalConfig, check_same_run, parse_config, to_yaml, user_errors
from sslortho.evaluate import (
    PRESETS,
    AccuracyCounts,
    NeighbourSearch,
    extract_features,
    feature_batches,
    vote,
)
from sslortho.train.run_folder import prepare_folder, read_summary


def evaluate(run: KnnEvaluation, folder: Path, started: float) -> dict[str, Any]:
    """Figures, pictures, report."""
    config, data, backbone = run.config, run.data, run.subject.backbone.eval()
    preset_k, preset_temperature = PRESETS[config.preset]
    k = config.k or preset_k
    temperature = config.temperature or preset_temperature
    if k > len(data.train):
        raise ValueError(f"k={k} is more than the {len(data.train)} training images; lower it")
    test, labels = extract_features(backbone, run.test)
    search = NeighbourSearch(test, k)
    for features, _ in feature_batches(backbone, run.train):
        search.add(features)
    similarities, neighbours = search.result()
    voters = data.train.labels.to(neighbours.device)[neighbours]
    scores = vote(similarities, voters, len(data.classes), temperature)
    counts = AccuracyCounts()
    counts.add(scores, labels)
    figures = {f"knn_{name}": value for name, value in counts.percentages().items()}

    def predict(features: Tensor) -> Tensor:
        return scores.argmax(dim=1)

    return conclude(
        run,
        folder,
        title="Nearest neighbours",
        protocol=f"Vote of the {k} nearest training images by cosine, each weighted by exp(cosine / "
        f"{temperature:g}), in evaluation views of {run.subject.info.crop_size} pixels "
        "(arXiv 1805.01978, section 3.4).",
        figures=figures,
        details={"k": k, "temperature": temperature},
        backbone=backbone,
        predict=predict,
        started=started,
    )


def tell(summary: dict[str, Any], folder: Path) -> None:
    """The final figures on the terminal."""
    print(f"{folder}: {summary['weights_from']}")
    print(f"  kNN top-1 {summary['knn_top1']:.2f} %   top-5 {summary['knn_top5']:.2f} %")
    print("  report.md, summary.json")


def main() -> None:
    started = time.time()
    config = parse_config(KnnEvalConfig)
    folder = config.run_folder
    with user_errors(config.debug), torch.no_grad():
        check_same_run(config, folder / "config.yaml")
        if (summary := read_summary(folder)) is not None:
            print("this run is finished already; another --out starts a new one")
            return tell(summary, folder)
        run = build_knn_evaluation(config)
        prepare_folder(folder, run.accelerator, to_yaml(config), asdict(config))
        summary = evaluate(run, folder, started)
    if run.accelerator.is_main_process:
        tell(summary, folder)
    run.accelerator.end_training()


if __name__ == "__main__":
    main()
