"""Time loaders and augmentation: `python benchmarks/bench_loading.py --data_dir D --out bench.json`.

Every pipeline makes the two views of Barlow Twins from the same images. The pipelines take turns,
round after round; the figures are pairs per second. Prints a table; writes the JSON and a plot.
"""

import contextlib
import json
import os
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loading_bench.bounds import read_jpegs
from loading_bench.options import BenchLoadingOptions
from loading_bench.photometric import time_photometric
from loading_bench.registry import PIPELINES, SMALL, Kind, choose_pipelines, split_missing
from loading_bench.rendering import compare_rendered
from loading_bench.results import (
    BOUNDS,
    describe_hardware,
    describe_parts,
    describe_rates,
    draw_plot,
    find_best_peer,
    find_versions,
    print_results,
)
from loading_bench.rounds import run_rounds
from loading_bench.workload import Batches, Workload
from sslortho.atomic import atomic_file
from sslortho.augment import create_views
from sslortho.data import ImageFiles, available_cores
from sslortho.data.beton.writer import write_beton
from sslortho.data.folder_walk import IMAGE_SUFFIXES
from sslortho.data.image_folder import read_into_memory
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


def choose_kinds(options: BenchLoadingOptions) -> tuple[dict[str, Kind], dict[str, str]]:
    """The pipelines to time, and for each one left out the command that installs what it needs."""
    kinds = SMALL if options.small else PIPELINES
    chosen, skipped = split_missing(choose_pipelines(options.pipelines, kinds))
    if not chosen:
        raise ValueError(f"pipelines={options.pipelines!r}: nothing is left to time")
    if not options.reduced and not any(kind.beton for kind in chosen.values()):
        for name in ("max_resolution", "quality"):
            if (value := getattr(options, name)) is not None:
                raise ValueError(f"{name}={value} has no effect: no pipeline here reads a beton")
    return chosen, skipped


@contextlib.contextmanager
def kept_to_cores(cores: int | None) -> Iterator[None]:
    """Keep this process, and what it starts meanwhile, to its first `cores` cores; None: to all."""
    if cores is None:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError(f"cores={cores}: this system cannot keep a process to cores; leave it out")
    usable = os.sched_getaffinity(0)
    if cores > len(usable):
        raise ValueError(f"cores={cores} must be at most the {len(usable)} cores of this process")
    os.sched_setaffinity(0, sorted(usable)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)


def reduce_files(work: Workload, folder: Path) -> Workload:
    """The workload with files of the beton's JPEGs in place of its own; writes them to `folder`."""
    folder.mkdir()
    paths = []
    for i, content in enumerate(read_jpegs(work)):
        paths.append(str(folder / f"{i:08d}.jpg"))
        Path(paths[-1]).write_bytes(content)
    return replace(work, paths=tuple(paths))


def time_pipelines(
    work: Workload, options: BenchLoadingOptions, chosen: dict[str, Kind], folder: Path
) -> dict[str, Any]:
    """Write what the pipelines read, run all rounds, and describe them."""
    work, beton = replace(work, folder=folder), None
    if options.reduced or any(kind.beton for kind in chosen.values()):
        work, beton = add_beton(work, options, folder)
    if options.reduced:
        work = reduce_files(work, folder / "reduced")
    running = {name: kind.create(work) for name, kind in chosen.items()}
    timings = run_rounds(running, options.rounds, work.workers, BOUNDS)
    rates = {name: timing.rates for name, timing in timings.items()}
    made = {name: one.rendered for name, one in running.items() if isinstance(one, Batches)}
    return {
        "pipelines": describe_rates(timings, {name: kind.what for name, kind in chosen.items()}),
        "best_peer": find_best_peer(rates),
        "rendered": compare_rendered(made),
        "parts": describe_parts(running, rates),
        "beton": beton,
    }


def measure_pipelines(options: BenchLoadingOptions) -> dict[str, Any]:
    """The report that is written to the JSON file."""
    chosen, skipped = choose_kinds(options)
    work = create_workload(options)
    with tempfile.TemporaryDirectory(prefix="bench_loading-") as folder:
        details = time_pipelines(work, options, chosen, Path(folder))
    rows = details["pipelines"]
    report: dict[str, Any] = {name: round(row["median"], 1) for name, row in rows.items()}
    if torch.cuda.is_available() and not options.small:
        report["photometric_gpu"] = time_photometric(work.specs, torch.device("cuda"))
    report["details"] = {
        "unit": "pairs of views per second, median of the rounds",
        "quick": options.quick,
        **details,
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
    warnings.filterwarnings(
        "ignore", module=r"(lightly|kornia|ffcv|numba|torch|litdata|webdataset)\b.*"
    )
    with user_errors(options.debug):
        if out.is_dir():  # before minutes of work
            raise ValueError(f"out={options.out!r} is a folder; give a file that ends in .json")
        out.parent.mkdir(parents=True, exist_ok=True)
        with kept_to_cores(options.cores):
            report = measure_pipelines(options)
    with atomic_file(out) as file:
        file.write((json.dumps(report, indent=2) + "\n").encode())
    draw_plot(out.with_suffix(".png"), report)
    print_results(report)
    print(f"\n{out}, {out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
