"""The figures of bench_optim.py for people: a table and a plot."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt


def print_table(name: str, figures: dict[str, Any]) -> None:
    """Print the figures of one network."""
    print(f"\n{name}: {figures['matrices']} matrices, {figures['entries'] / 1e6:.1f} M entries\n")
    print(
        "| method | seconds | core seconds | times faster | peak MiB | median error | worst | worst direction |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for method, row in figures["methods"].items():
        core = row["core_seconds"]
        cells = [
            f"{row['seconds']:.4f}",
            "" if core is None else f"{core:.4f}",
            f"{row['ratio']:.2f}",
        ]
        cells.append("" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}")
        keys = ("median_error", "worst_error", "worst_direction_error")
        cells += [f"{row[key]:.1e}" if key in row else "" for key in keys]
        print(f"| {method} | {' | '.join(cells)} |")
    share = figures["step"]
    print(
        f"\nOrthLARS takes {100 * share['orth_lars_share']:.1f} % of a training step with"
        f" {share['batch_size']} x 2 images: {share['orth_lars_seconds']:.4f} s"
        f" (LARS {share['lars_seconds']:.4f} s) after {share['backward_seconds']:.3f} s of forward"
        " and backward.",
        flush=True,
    )


def draw_plot(path: Path, report: dict[str, Any]) -> None:
    """Draw how many times faster each method is than one SVD after another."""
    models = report["models"]
    figure, axes = plt.subplots(1, len(models), figsize=(4 * len(models), 3), squeeze=False)
    for axis, (name, figures) in zip(axes[0], models.items(), strict=True):
        rows = figures["methods"]
        colours = ["C1" if method == "ours" else "C0" for method in rows]
        bars = axis.barh(list(rows), [row["ratio"] for row in rows.values()], color=colours)
        axis.bar_label(bars, fmt="%.1f", padding=2)
        axis.set_title(name)
        axis.set_xlabel("times faster than SVDs")
        axis.margins(x=0.15)
        axis.invert_yaxis()
        axis.label_outer()
    figure.suptitle(f"{report['gradients']} gradients, {report['device']}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
