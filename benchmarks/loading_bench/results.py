"""Results of bench_loading.py: figures of every pipeline, the machine, a table and a plot."""

import platform
import statistics
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch

from sslortho.atomic import atomic_file
from sslortho.data import available_cores
from sslortho.runs.provenance import versions

from .bounds import Parts
from .rounds import Timing
from .workload import Pipeline

BOUNDS = ("ours_parts", "decode_floor", "decode_floor_beton")
"""Pipelines that are bounds, not loaders."""

LABELS = {"ffcv_stock": "ffcv_stock (crops and flips only)"}
"""Labels of pipelines that do not do all of the work."""

REFERENCES = ("lightly", "torchvision_pil", "kornia")
"""Pipelines that the others are compared with."""


PACKAGES = (
    "numba", "pillow", "lightly", "kornia", "ffcv", "albumentationsx", "opencv-python",
    "opencv-python-headless", "webdataset", "litdata", "nvidia-dali-cuda120", "spdl",
)  # fmt: skip
"""Packages whose versions affect the figures, beside those of every run."""


def label_pipeline(name: str) -> str:
    """The name of a pipeline in the table and the plot."""
    return LABELS.get(name, name)


def compute_ratio(rates: dict[str, list[float]], one: str, other: str) -> float | None:
    """Median over the rounds that both were timed in of the ratio of two pipelines' rates.

    None if one is missing.
    """
    if one not in rates or other not in rates:
        return None
    return statistics.median(a / b for a, b in zip(rates[one], rates[other], strict=False))


def find_best_peer(rates: Mapping[str, list[float]]) -> str | None:
    """The fastest other library that does all of the work; None without one."""
    peers = [name for name in rates if not name.startswith("ours") and name not in BOUNDS]
    peers = [name for name in peers if name not in LABELS]
    return max(peers, key=lambda name: statistics.median(rates[name]), default=None)


def describe_rates(
    timings: Mapping[str, Timing], what: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """A row for each pipeline, the slowest first."""
    rates = {name: timing.rates for name, timing in timings.items()}
    others = [*REFERENCES, *filter(None, [find_best_peer(rates)])]
    rows = {
        name: {
            "median": statistics.median(timing.rates),
            "min": min(timing.rates),
            "max": max(timing.rates),
            "rounds": timing.rates,
            "core_ms": statistics.median(timing.core_ms) if timing.core_ms else None,
            "core_ms_rounds": timing.core_ms,
            "warm_up_seconds": timing.warm_up,
            "pairs_a_round": timing.pairs,
            "times": {other: compute_ratio(rates, name, other) for other in others},
            "what": what[name],
        }
        for name, timing in timings.items()
    }
    return dict(sorted(rows.items(), key=lambda row: row[1]["median"]))


def describe_parts(
    pipelines: dict[str, Pipeline], rates: dict[str, list[float]]
) -> dict[str, Any] | None:
    """Milliseconds of one thread an image, and ours_beton's rate over the rate of the parts' sum."""
    parts = pipelines.get("ours_parts")
    if not isinstance(parts, Parts):
        return None
    timed = parts.milliseconds[1:]  # without the round that compiles
    return {
        "milliseconds": {name: statistics.median(row[name] for row in timed) for name in timed[0]},
        "images": parts.count,
        "ours_beton_share": compute_ratio(rates, "ours_beton", "ours_parts"),
    }


def find_processor() -> str:
    """The processor's name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def describe_hardware() -> dict[str, Any]:
    """Processor, GPU, and the number of cores that this process may use."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"processor": find_processor(), "cores": available_cores(), "gpu": gpu}


def find_versions() -> dict[str, str]:
    """Versions of the packages that affect the figures."""
    found = versions()
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def print_table(rows: dict[str, dict[str, Any]]) -> None:
    """Print a line for each pipeline, the slowest first."""
    times = next(iter(rows.values()))["times"]
    references = [name for name in times if name in rows]
    header = ["pipeline", "pairs/s", "min to max", "ms of a core a pair"]
    header += [f"times {name}" for name in references]
    print(f"| {' | '.join([*header, 'rounds of pairs'])} |")
    print("|---" * (len(header) + 1) + "|")
    for name, row in rows.items():
        cells = [label_pipeline(name), f"{row['median']:.1f}"]
        cells.append(f"{row['min']:.1f} to {row['max']:.1f}")
        cells.append("" if row["core_ms"] is None else f"{row['core_ms']:.2f}")
        cells += [f"{row['times'][other]:.2f}" for other in references]
        cells.append(f"{len(row['rounds'])} of {row['pairs_a_round']}")
        print(f"| {' | '.join(cells)} |")


def print_rendered(rendered: dict[str, dict[str, Any]]) -> None:
    """Print how the views of each pipeline differ from those of ours."""
    for name, row in rendered.items():
        if row["differs"]:
            print(f"views of {name} ({row['views']} measured): {'; '.join(row['differs'])}")


def print_results(report: dict[str, Any]) -> None:
    """Print the table, the pipelines' descriptions, the beton, the parts and the GPU's figures."""
    details = report["details"]
    rows, beton, parts = details["pipelines"], details["beton"], details["parts"]
    if details["quick"]:
        print("quick run: rough figures")
    print_table(rows)
    print()
    for name, row in rows.items():
        print(f"{name}: {row['what']}")
    print_rendered(details["rendered"])
    print(
        f"\n{details['images']} images, batches of {details['batch_size']}, {details['workers']} "
        f"workers, {details['hardware']['processor']}"
    )
    if beton:
        print(
            f"beton: {beton['bytes'] / 1e6:.1f} MB, longer side {beton['max_resolution']} at most, "
            f"quality {beton['quality']}, written in {beton['seconds']:.1f} s"
        )
    if parts:
        took = ", ".join(f"{name} {ms:.2f}" for name, ms in parts["milliseconds"].items())
        print(f"parts, milliseconds of one thread an image: {took}")
        if parts["ours_beton_share"]:
            print(f"ours_beton reaches {100 * parts['ours_beton_share']:.0f} % of their sum")
    for name, rate in report.get("photometric_gpu", {}).items():
        print(f"photometry on {details['hardware']['gpu']}: {name} {rate:.0f} images/s")


def draw_plot(path: Path, report: dict[str, Any]) -> None:
    """Draw pairs per second, with the slowest and the fastest round."""
    details = report["details"]
    rows = details["pipelines"]
    figure, axis = plt.subplots(figsize=(8, 1.4 + 0.35 * len(rows)))
    medians = [row["median"] for row in rows.values()]
    spread = [[row["median"] - row["min"] for row in rows.values()],
              [row["max"] - row["median"] for row in rows.values()]]  # fmt: skip
    colours = [
        "0.75" if name in BOUNDS else "C1" if name.startswith("ours") else "C0" for name in rows
    ]
    places = range(len(rows))
    axis.barh(places, medians, xerr=spread, color=colours, error_kw={"lw": 1, "ecolor": "0.3"})
    axis.set_yticks(places, [label_pipeline(name) for name in rows])
    for place, row in enumerate(rows.values()):
        axis.annotate(f"{row['median']:.0f}", (row["max"], place), (4, 0),
                      textcoords="offset points", va="center", fontsize=9)  # fmt: skip
    axis.margins(x=0.12)
    axis.set_xlabel("pairs of views per second (grey: bounds, not loaders)")
    size = details["views"][0]["crop_size"]
    axis.set_title(
        f"{'quick run, rough figures: ' if details['quick'] else ''}{size} pixels, "
        f"{details['workers']} workers, {details['hardware']['processor']}",
        fontsize=10,
    )
    figure.tight_layout()
    with atomic_file(path) as file:
        figure.savefig(file, dpi=120, format="png")
