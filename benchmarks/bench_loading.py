"""Time loaders and augmentation: `python benchmarks/bench_loading.py --data_dir D --out bench.json`.

Every pipeline makes the two views of Barlow Twins from the same images. The pipelines take turns,
round after round; the figures are pairs per second. Prints a table; writes the JSON and a plot.
"""

import json
import os
import shlex
import statistics
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from loading_bench.options import BenchLoadingOptions
from loading_bench.photometric import time_photometric
from loading_bench.registry import PIPELINES, SMALL, Kind, choose_pipelines, split_missing
from loading_bench.results import (
    describe_hardware,
    describe_parts,
    describe_rates,
    draw_plot,
    find_versions,
    print_results,
)
from loading_bench.workload import Pipeline, Workload
from sslortho.atomic import atomic_file
from sslortho.augment import create_views
from sslortho.data import ImageFiles, available_cores
from sslortho.data.beton.writer import write_beton
from sslortho.data.image_folder import IMAGE_SUFFIXES, read_into_memory
from sslortho.recipes.command_line import parse_options, user_errors


def find_images(data_dir: Path, count: int) -> tuple[str, ...]:
    """Paths of up to `count` images, evenly spread over data_dir/train, or data_dir without that."""
    folder = data_dir / "train" if (data_dir / "train").is_dir() else data_dir
    paths = sorted(
        os.path.join(root, name)
        for root, _, names in os.walk(folder, followlinks=True)
        for name in names
        if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")
    )
    if not paths:
        raise ValueError(f"data_dir={str(data_dir)!r} is not a folder with images")
    places = np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)
    return tuple(paths[place] for place in places)


def create_workload(options: BenchLoadingOptions) -> Workload:
    """The images and views; a pass takes each image once, and some twice to fill the batches."""
    paths = find_images(Path(options.data_dir), options.image_count)
    cores = available_cores()
    workers = options.workers or cores
    if workers > cores:
        raise ValueError(f"workers={workers} must be at most the {cores} cores of this process")
    name = "barlow_twins_small" if options.small else "barlow_twins"
    first, second = create_views(name, options.view_size)
    turn = options.samples * workers  # every process makes the same number of batches
    pairs = -(-len(paths) // turn) * turn
    work = Workload(paths, pairs, (first, second), options.samples, workers)
    if not options.small:
        return work
    files = ImageFiles(paths, torch.full((len(paths),), -1), ())
    try:
        return replace(work, array=read_into_memory(files))
    except ValueError as error:
        raise ValueError(f"small=True is for images of one size: {error}".split(";")[0]) from error


def add_beton(
    work: Workload, options: BenchLoadingOptions, folder: Path
) -> tuple[Workload, dict[str, Any]]:
    """Write the images as a beton into `folder`; returns the workload with it, and its figures."""
    files = ImageFiles(work.paths, torch.full((len(work.paths),), -1), ())
    longest, quality = options.max_resolution or 500, options.quality or 90
    start = time.perf_counter()
    manifest = write_beton(
        files,
        folder / "train.beton",
        max_resolution=longest,
        quality=quality,
        workers=work.workers,
    )
    seconds = time.perf_counter() - start
    return replace(work, beton=folder), {
        "max_resolution": longest,
        "quality": quality,
        "images": manifest["count"],
        "bytes": manifest["bytes"],
        "seconds": seconds,
    }


def run_rounds(
    pipelines: dict[str, Pipeline], epochs: int, workers: int
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Each pipeline's pairs per second in every round, and its pairs in a round.

    The pipelines take turns, so that other load on the machine affects all alike. A round before the
    timed ones starts processes, compiles, and fills the page cache. A pipeline that takes more than TOO_SLOW
    times the median of all is timed in one round alone.
    """
    rates: dict[str, list[float]] = {name: [] for name in pipelines}
    pairs = {}
    stopped: set[str] = set()
    with tqdm(total=(epochs + 1) * len(pipelines), unit="run", leave=False, disable=None) as bar:
        for round_ in range(epochs + 1):
            for name, pipeline in pipelines.items():
                bar.set_postfix_str(name)
                bar.update()
                if name in stopped:
                    continue
                torch.set_num_threads(workers)  # FFCV and others change it
                start = time.perf_counter()
                pairs[name] = pipeline.run()
                if round_:
                    rates[name].append(pairs[name] / (time.perf_counter() - start))
            kind = f"round {round_} of {epochs}" if round_ else "first round, untimed"
            tqdm.write(f"{kind}: done", file=sys.stderr)
            if round_ == 1:
                stopped = find_slow({name: rate for name, (rate,) in rates.items()})
    for name in stopped:
        print(f"{name}: timed once alone, {rates[name][0]:.1f} pairs/s", file=sys.stderr)
    return rates, pairs


TOO_SLOW = 20
"""Times that a pipeline is slower than the median of all from which one round is enough."""


def find_slow(rates: dict[str, float]) -> set[str]:
    """Pipelines whose rate is less than 1 / TOO_SLOW of the median of all."""
    usual = statistics.median(rates.values())
    return {name for name, rate in rates.items() if rate < usual / TOO_SLOW}


def choose_kinds(options: BenchLoadingOptions) -> tuple[dict[str, Kind], dict[str, str]]:
    """The pipelines to time, and for each one left out the command that installs what it needs."""
    kinds = SMALL if options.small else PIPELINES
    chosen, skipped = split_missing(choose_pipelines(options.pipelines, kinds))
    if not chosen:
        raise ValueError(f"pipelines={options.pipelines!r}: nothing is left to time")
    if not any(kind.beton for kind in chosen.values()):
        for name in ("max_resolution", "quality"):
            if (value := getattr(options, name)) is not None:
                raise ValueError(f"{name}={value} has no effect: no pipeline here reads a beton")
    return chosen, skipped


def measure_pipelines(options: BenchLoadingOptions) -> dict[str, Any]:
    """The report that is written to the JSON file."""
    chosen, skipped = choose_kinds(options)
    work, beton = create_workload(options), None
    with tempfile.TemporaryDirectory(prefix="bench_loading-") as folder:
        if any(kind.beton for kind in chosen.values()):
            work, beton = add_beton(work, options, Path(folder))
        running = {name: kind.create(work) for name, kind in chosen.items()}
        rates, pairs = run_rounds(running, options.epochs, work.workers)
    rows = describe_rates(rates, pairs, {name: kind.what for name, kind in chosen.items()})
    report: dict[str, Any] = {name: round(row["median"], 1) for name, row in rows.items()}
    if torch.cuda.is_available() and not options.small:
        report["photometric_gpu"] = time_photometric(work.specs, torch.device("cuda"))
    report["details"] = {
        "unit": "pairs of views per second, median of the rounds",
        "pipelines": rows,
        "parts": describe_parts(running, rates),
        "beton": beton,
        "skipped": skipped,
        "images": len(work.paths),
        "batch_size": work.batch_size,
        "workers": work.workers,
        "views": [asdict(spec) for spec in work.specs],
        "settings": asdict(options),
        "hardware": describe_hardware(),
        "versions": find_versions(),
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    return report


def main() -> None:
    options = parse_options(BenchLoadingOptions)
    out = Path(options.out)
    warnings.filterwarnings("ignore", module=r"(lightly|kornia|ffcv|numba|torch)\b.*")
    with user_errors(options.debug):
        if out.is_dir():  # before minutes of work
            raise ValueError(f"out={options.out!r} is a folder; give a file that ends in .json")
        out.parent.mkdir(parents=True, exist_ok=True)
        report = measure_pipelines(options)
    with atomic_file(out) as file:
        file.write((json.dumps(report, indent=2) + "\n").encode())
    draw_plot(out.with_suffix(".png"), report)
    print_results(report)
    print(f"\n{out}, {out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
