"""Draw the README's picture from the kept runs of docs/order: `python benchmarks/readme_picture.py`.

kNN accuracy of held-out images against epochs: mean and standard error of the seeds.
"""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from sslortho.evaluate.figures import new_figure, save_figure

DOCS = Path(__file__).parent.parent / "docs"
NAMES = {
    "lars": ("LARS", "#332288"),
    "muon": ("Muon", "#999933"),
    "orth_lars": ("Orthogonal-LARS", "#CC6677"),
    "orth_sgd": ("Orthogonal-SGD", "#117733"),
}
"""Optimizer in the name of a run to its name in the picture and its colour."""

LINE = 0.9
"""Least distance between two names in points of kNN accuracy, so that they can be read."""


def read_curves(field: str) -> dict[str, tuple[list[float], np.ndarray]]:
    """Optimizer to the epochs and values (seeds, epochs) of a field, over the runs of all seeds."""
    found = defaultdict(list)
    for line in (DOCS / "order" / "runs.jsonl").read_text().splitlines():
        run = json.loads(line)
        _, optimizer, *seed = run["name"].removeprefix("runs/").split("-")
        if run["name"].startswith("runs/resnet20-") and len(seed) == 1:
            records = [r for r in run["records"] if r.get(field) is not None]
            steps = run["summary"]["steps"] / max(r["epoch"] for r in run["records"])
            found[optimizer].append([(r["step"] / steps, r[field]) for r in records])
    curves = {}
    for optimizer, runs in found.items():
        epochs = [epoch for epoch, _ in runs[0]]
        curves[optimizer] = epochs, np.array([[value for _, value in run] for run in runs])
    return curves


def place_names(ends: dict[str, float]) -> dict[str, float]:
    """Heights of the names of curves that end at these values: those, or LINE above the name below."""
    heights: dict[str, float] = {}
    for optimizer, end in sorted(ends.items(), key=lambda item: item[1]):
        heights[optimizer] = max([end, *(height + LINE for height in heights.values())])
    return heights


def main() -> None:
    figure = new_figure(7.5, 3.3)
    axis = figure.subplots()
    curves = read_curves("val_knn_top1")
    heights = place_names({name: curves[name][1].mean(axis=0)[-1] for name in NAMES})
    for optimizer, (name, colour) in NAMES.items():
        epochs, values = curves[optimizer]
        mean = values.mean(axis=0)
        error = values.std(axis=0, ddof=1) / len(values) ** 0.5
        axis.plot(epochs, mean, color=colour, linewidth=2, marker="o")
        axis.fill_between(epochs, mean - error, mean + error, color=colour, alpha=0.18, lw=0)
        axis.annotate(name, (epochs[-1], heights[optimizer]), (8, 0), textcoords="offset points",
                      va="center", color=colour, fontsize=11)  # fmt: skip
    axis.set_xlabel("epoch of 10,000 images")
    axis.set_ylabel("kNN accuracy (%)")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    save_figure(figure, DOCS / "assets" / "tuned_alike.png")


if __name__ == "__main__":
    main()
