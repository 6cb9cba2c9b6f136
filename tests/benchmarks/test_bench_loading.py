"""bench_loading.py: its report, and that every pipeline does the work it is timed on."""

import dataclasses
import inspect
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from helpers.script_runs import call_script
from PIL import Image

import bench_loading
from loading_bench import bounds, registry, results, workload
from loading_bench.libraries import create_image_list
from loading_bench.options import BenchLoadingOptions
from loading_bench.photometric import time_photometric
from loading_bench.rendering import Rendered, compare_rendered
from sslortho.augment import ViewRenderer, create_views
from sslortho.data import (
    EpochOrder,
    ImageFiles,
    PixelSource,
    ViewLoader,
    load_split,
    require_ffcv,
)
from sslortho.data.beton.writer import write_beton
from sslortho.data.image_folder import read_into_memory, scan_folder

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

CROP = 48


def write_images(folder, suffix, sizes):
    """Colourful images with edges that grow brighter to the right, in two classes."""
    generator = np.random.default_rng(0)
    ramp = np.linspace(0, 95, 24)[None, :, None]
    for i, size in enumerate(sizes):
        coarse = generator.integers(40, 160, (24, 24, 3)) + ramp
        path = folder / f"class{i % 2}" / f"{i}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(coarse.astype(np.uint8))
        image.resize(size, Image.Resampling.BICUBIC).save(path)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    sizes = np.random.default_rng(1).integers(80, 130, (6, 2)).tolist()
    write_images(folder / "train", ".JPEG", [tuple(size) for size in sizes])
    return folder


@pytest.fixture(scope="module")
def small_images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    write_images(folder, ".png", [(32, 32)] * 10)
    return folder


def bench(out, *arguments):
    command = [sys.executable, str(BENCHMARKS / "bench_loading.py"), "--out", str(out), *arguments]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def has_ffcv():
    try:
        require_ffcv()
    except ValueError:
        return False
    return True


def check_report(out, printed, kinds):
    """Check what every report must satisfy; returns the report."""
    report = json.loads(out.read_text())
    details = report["details"]
    assert set(report) == {*details["pipelines"], "details"}
    assert {*details["pipelines"], *details["skipped"]} == set(kinds)
    for name, row in details["pipelines"].items():
        assert f"| {name}" in printed
        assert report[name] == pytest.approx(row["median"], abs=0.06)
        assert 0 < row["min"] <= row["median"] <= row["max"]
        assert len(row["rounds"]) in (1, 2)  # one of a pipeline that is far slower
        ratios = [ratio for ratio in row["times"].values() if ratio is not None]
        assert ratios
        assert all(math.isfinite(ratio) and ratio > 0 for ratio in ratios)
    assert details["pipelines"]["torchvision_pil"]["times"]["torchvision_pil"] == 1
    medians = [row["median"] for row in details["pipelines"].values()]
    assert medians == sorted(medians)
    assert matplotlib.image.imread(out.with_suffix(".png")).shape[0] > 100
    assert sorted(path.name for path in out.parent.iterdir()) == ["bench.json", "bench.png"]
    return report


@pytest.mark.slow
def test_photographs_side_by_side(photographs, tmp_path):
    out = tmp_path / "new" / "bench.json"
    arguments = ["--data_dir", str(photographs), "--crop_size", str(CROP), "--epochs", "2",
                 "--workers", "1", "--batch_size", "4", "--max_resolution", "100"]  # fmt: skip
    printed = bench(out, *arguments).stdout
    report = check_report(out, printed, registry.PIPELINES)
    details = report["details"]
    assert details["images"] == 6
    assert details["pipelines"]["lightly"]["pairs_a_round"] == 8  # two batches of 4 hold all 6
    assert details["beton"]["images"] == 6
    assert details["beton"]["max_resolution"] == 100
    assert 0 < details["beton"]["bytes"] < 30_000_000
    for name, hint in details["skipped"].items():
        assert f"{name} is left out: {hint}" in printed
    assert set(details["parts"]["milliseconds"]) == {"decode", "crop", "colour"}
    assert details["parts"]["ours_beton_share"] > 0
    if has_ffcv():
        assert "crops and flips only" in printed
    assert details["settings"]["workers"] == 1
    assert details["command"].startswith("python ")
    assert not details["quick"]
    makers = {"torchvision_pil", "lightly", "ours_folder", "ours_beton"}
    assert makers <= set(details["rendered"])
    assert all(len(row["detail"]) == 2 for row in details["rendered"].values())
    assert {"torch", "torchvision", "lightly", "pillow"} <= set(details["versions"])


@pytest.mark.slow
def test_a_quick_run_of_reduced_images_says_so(photographs, tmp_path):
    done = bench(tmp_path / "bench.json", "--data_dir", str(photographs), "--quick", "--reduced",
                 "--crop_size", str(CROP), "--pipelines", "original,ours_folder", "--workers", "1",
                 "--max_resolution", "60", "--batch_size", "2")  # fmt: skip
    details = json.loads((tmp_path / "bench.json").read_text())["details"]
    assert details["quick"]
    assert details["beton"]["max_resolution"] == 60
    assert all(len(row["rounds"]) == 1 for row in details["pipelines"].values())
    assert done.stdout.startswith("quick run: rough figures")
    assert details["best_peer"] == "original"
    results.draw_plot(tmp_path / "again.png", {"details": details})
    assert plt.gcf().axes[0].get_title().startswith("quick run")
    plt.close("all")


@pytest.mark.slow
def test_small_images_side_by_side(small_images, tmp_path):
    out = tmp_path / "new" / "bench.json"
    arguments = ["--data_dir", str(small_images), "--small", "--epochs", "2", "--workers", "1",
                 "--batch_size", "8"]  # fmt: skip
    report = check_report(out, bench(out, *arguments).stdout, registry.SMALL)
    assert report["ours_tensor"] > 0
    assert report["details"]["beton"] is None
    assert report["details"]["pipelines"]["torchvision_pil"]["pairs_a_round"] == 16


def test_an_unknown_pipeline_is_one_line_with_the_nearest(photographs, tmp_path):
    done = call_script(
        "bench_loading", "--data_dir", photographs, "--out", tmp_path / "bench.json",
        "--pipelines", "lightli,ours_folder",
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("(did you mean lightly?)")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "bench.json").exists()


@pytest.mark.slow
def test_chosen_pipelines_alone(photographs, tmp_path):
    done = bench(tmp_path / "bench.json", "--data_dir", str(photographs / "train" / "class0"),
                 "--pipelines", "decode_floor,ours_folder", "--crop_size", str(CROP),
                 "--epochs", "1", "--workers", "1", "--batch_size", "2", "--images", "2")  # fmt: skip
    report = json.loads((tmp_path / "bench.json").read_text())
    assert {*report} == {"decode_floor", "ours_folder", "details"}
    assert report["details"]["images"] == 2
    assert report["details"]["parts"] is None
    assert "times" not in done.stdout.splitlines()[0]  # none of those to compare with is here


def test_options_without_effect_or_out_of_range_are_named():
    for name, options in {
        "quality": {"small": True, "quality": 90},
        "reduced": {"small": True, "reduced": True},
        "cores": {"cores": 0},
        "max_resolution": {"small": True, "max_resolution": 100},
        "epochs": {"epochs": 0},
        "workers": {"workers": 0},
        "out": {"out": "bench"},
    }.items():
        with pytest.raises(ValueError, match=f"{name}="):
            BenchLoadingOptions(data_dir="D", **options)


# The work itself


def make_work(paths, **options):
    usual = {"specs": create_views("barlow_twins", CROP), "pairs": 8, "batch_size": 4, "workers": 1}
    return workload.Workload(tuple(paths), **{**usual, **options})


LIBRARIES = [
    "torchvision_pil",
    "torchvision_v2",
    "original",
    "lightly",
    "kornia",
    "albumentationsx",
]
"""Pipelines whose data set is asked for views."""

STREAMS = ["webdataset", "litdata", "dali", "spdl", "spdl_io"]
"""Pipelines that are run."""


def is_installed(name):
    return not any(map(registry.find_missing, registry.PIPELINES[name].needs))


INSTALLED = [name for name in (*LIBRARIES, *STREAMS) if is_installed(name)]
"""Those that this environment has; the test extra has lightly and kornia."""


def transformed(name, work, count):
    """Views (count, 2, 3, size, size) of the first image, made by the pipeline of that name."""
    if name in STREAMS:
        work = dataclasses.replace(work, paths=work.paths[:1], pairs=-(-count // 4) * 4)
        loader = registry.PIPELINES[name].create(work).loader
        batches = [batch[0] if len(batch[0]) == 2 else batch for batch in loader]
        views = [torch.stack(list(views), dim=1) for views in batches]
        return torch.cat(views)[:count]
    loader = registry.PIPELINES[name].create(work).loader
    with torch.no_grad():
        if name == "kornia":
            views, _ = loader.dataset[[0] * count]
            return torch.stack(views, dim=1)
        return torch.stack([torch.stack(loader.dataset[0][0]) for _ in range(count)])


def undo_normalise(views):
    """Values from 0 to 1 (count, 3, size, size)."""
    spec = create_views("barlow_twins", CROP)[0]
    return views * torch.tensor(spec.std).view(3, 1, 1) + torch.tensor(spec.mean).view(3, 1, 1)


def share(of_views):
    return of_views.float().mean().item()


def detail(views):
    """Mean difference of neighbouring pixels, which a blur lowers."""
    return views.diff(dim=-1).abs().mean().item()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")
@pytest.mark.parametrize("name", INSTALLED)
def test_libraries_do_all_of_the_work(photographs, name, tmp_path):
    work = make_work(scan_folder(photographs, "train").paths, folder=tmp_path)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (lightly draws from it)
    views = transformed(name, work, 150)
    assert views.dtype == torch.float32
    assert views.shape == (150, 2, 3, CROP, CROP)
    assert views.min() < -1.5  # black is -2.1, white 2.6
    assert views.max() > 1.5
    assert views.min() > -2.8
    assert views.max() < 3.3  # kornia's bicubic crop overshoots
    for pixels in map(undo_normalise, views.unbind(1)):  # 0.2 and 0.5 within 3.4 deviations
        assert 0.09 < share((pixels.amax(1) - pixels.amin(1)).amax((1, 2)) < 0.01) < 0.33
    first, second = map(undo_normalise, views.unbind(1))
    falling = first[..., : CROP // 2].mean((1, 2, 3)) > first[..., CROP // 2 :].mean((1, 2, 3))
    assert 0.36 < share(falling) < 0.64  # flipped
    assert 0.09 < share(second.amax((1, 2, 3)) < 0.52) < 0.33  # solarised: nothing above the middle
    assert share(first.amax((1, 2, 3)) < 0.52) < 0.09  # dark crops
    assert detail(views[:, 0]) < 0.8 * detail(views[:, 1])  # the first is blurred always


def normalise(levels):
    spec = create_views("barlow_twins", CROP)[0]
    return (levels - torch.tensor(spec.mean).view(3, 1, 1)) / torch.tensor(spec.std).view(3, 1, 1)


def test_rendered_views_are_described_by_their_levels():
    levels = torch.rand(10, 3, CROP, CROP, generator=torch.Generator().manual_seed(0))
    levels[:3] = levels[:3, :1]  # grey
    levels[2:6] /= 2  # nothing above the middle
    stripes = torch.arange(CROP).remainder(2).expand(10, 3, CROP, CROP) * 0.6
    rendered = Rendered(create_views("barlow_twins", CROP)[0])
    for part in (slice(0, 7), slice(7, 10)):
        rendered.add([normalise(levels[part]), normalise(stripes[part].float())])
    figures = rendered.describe()
    assert figures["grey"] == pytest.approx([0.3, 1.0])
    assert figures["dark"] == pytest.approx([0.4, 0.0])
    assert figures["detail"][1] == pytest.approx(0.6, abs=1e-5)
    assert figures["brightness"] == pytest.approx([levels.mean().item(), 0.3], abs=1e-5)
    assert figures["contrast"][1] == pytest.approx(0.3, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("missing", "word"),
    [
        ("grayscale_p", "grey"),
        ("blur_p", "detail of the first"),
        ("solarise_p", "dark of the second"),
    ],
)
def test_views_that_lack_a_step_are_named(photographs, missing, word):
    """Views of this package's renderer, all steps or all but one."""
    specs = create_views("barlow_twins", CROP)
    files = scan_folder(photographs, "train").select(torch.arange(600) % 6)
    rendered = {}
    for name, changes in {"ours_folder": {}, "same": {}, "lacking": {missing: 0.0}}.items():
        renderer = ViewRenderer(
            [dataclasses.replace(spec, **changes) for spec in specs],
            seed=len(name),
            channels_last=True,
        )
        loader = ViewLoader(
            PixelSource(files), renderer, EpochOrder(600, 60), torch.device("cpu"), 1
        )
        rendered[name] = Rendered(specs[0])
        for batch in loader:
            rendered[name].add(batch.views)
    rows = compare_rendered(rendered)
    assert rows["ours_folder"]["differs"] == rows["same"]["differs"] == []
    assert any(line.startswith(word) for line in rows["lacking"]["differs"])
    assert rows["lacking"]["views"] == 512


def test_lightlys_defaults_are_the_papers_numbers():
    transform = pytest.importorskip("lightly.transforms.byol_transform")
    classes = (transform.BYOLView1Transform, transform.BYOLView2Transform)
    for cls, spec in zip(classes, create_views("barlow_twins"), strict=True):
        default = {k: p.default for k, p in inspect.signature(cls.__init__).parameters.items()}
        assert (default["cj_prob"], default["cj_strength"]) == (spec.jitter_p, 1.0)
        jitter = [default[f"cj_{name}"] for name in ("bright", "contrast", "sat", "hue")]
        assert jitter == [spec.brightness, spec.contrast, spec.saturation, spec.hue]
        assert (default["min_scale"], default["hf_prob"]) == (spec.crop_scale[0], spec.flip_p)
        assert default["random_gray_scale"] == spec.grayscale_p
        assert (default["gaussian_blur"], tuple(default["sigmas"])) == (
            spec.blur_p,
            spec.blur_sigma,
        )
        assert default["solarization_prob"] == spec.solarise_p
        assert (default["vf_prob"], default["rr_prob"]) == (0, 0)


def test_small_pipelines_read_from_memory(small_images):
    paths = sorted(str(path) for path in small_images.rglob("*.png"))
    data = read_into_memory(ImageFiles(tuple(paths), torch.zeros(len(paths)), ()))
    work = make_work(["unused"] * 10, array=data, specs=create_views("barlow_twins_small", 32))
    pil, tensor = (create_image_list(work, lambda image: image, pil=p) for p in (True, False))
    for i in range(8):
        np.testing.assert_array_equal(np.asarray(pil[i][0]), data.images[i].permute(1, 2, 0))
        assert torch.equal(tensor[i][0], data.images[i])


@pytest.fixture(scope="module")
def beton(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("beton")
    write_beton(scan_folder(photographs, "train"), folder / "train.beton")
    return folder


@pytest.mark.slow
def test_the_parts_make_what_the_loader_makes(beton, photographs):
    paths = scan_folder(photographs, "train").paths
    parts = bounds.Parts(make_work(paths, beton=beton, workers=2))
    assert parts.run() == workload.FAST_PASSES * len(paths)
    assert set(parts.milliseconds[0]) == {"decode", "crop", "colour"}

    renderer = ViewRenderer(create_views("barlow_twins", CROP), seed=0, channels_last=True)
    order = EpochOrder(len(paths), len(paths))
    source = load_split("beton", beton, "train").source()
    batch = next(iter(ViewLoader(source, renderer, order, torch.device("cpu"), 1)))
    indices = next(order.steps(0))
    for view in range(2):
        pixels = torch.from_numpy(parts.views[view]).view(-1, CROP, CROP, 3).permute(0, 3, 1, 2)
        torch.testing.assert_close(pixels[indices], batch.views[view], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_reduced_files_are_the_betons_images(beton, photographs, tmp_path):
    work = make_work(scan_folder(photographs, "train").paths, beton=beton)
    reduced = bench_loading.reduce_files(work, tmp_path / "reduced")
    assert [Path(path).read_bytes() for path in reduced.paths] == bounds.read_jpegs(work)
    assert dataclasses.replace(reduced, paths=work.paths) == work


@pytest.mark.slow
def test_the_floor_decodes_the_betons_images(beton, photographs):
    paths = scan_folder(photographs, "train").paths
    work = make_work(paths, beton=beton)
    found = bounds.read_jpegs(work)
    assert found == [Path(path).read_bytes() for path in paths]
    for jpeg, path in zip(found, paths, strict=True):
        np.testing.assert_array_equal(bounds.decode_image(jpeg), np.asarray(Image.open(path)))
    assert bounds.create_decode_floor_beton(work).run() == workload.FAST_PASSES * 8
    assert bounds.create_decode_floor(work).run() == workload.FAST_PASSES * 8


@pytest.mark.slow
def test_the_photometric_part_runs_on_any_device():
    specs = create_views("barlow_twins", 24)
    found = time_photometric(specs, torch.device("cpu"), batch_size=3, rounds=2)
    assert {"ours", "torchvision_v2", "torchvision_v2_one_draw_a_batch"} <= set(found)
    assert all(math.isfinite(rate) and rate > 0 for rate in found.values())
