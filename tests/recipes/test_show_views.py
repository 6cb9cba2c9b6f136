"""The picture of the views: its captions must say what was done to the images that it shows."""

import re
from dataclasses import replace
from itertools import combinations

import matplotlib.image
import numpy as np
import pytest
from helpers.script_runs import call_script, finish, start_script
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from sslortho.augment.published_views import create_views
from sslortho.data import hold_out, load_split
from sslortho.data.beton.writer import write_beton
from sslortho.data.image_folder import scan_folder
from sslortho.recipes.show_views import run as show_views
from sslortho.recipes.show_views.options import ShowViewsOptions

COUNT = 24


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Two classes of colourful images of many sizes, lossless."""
    folder = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(0)
    for i in range(2 * COUNT):
        coarse = Image.fromarray(generator.integers(0, 256, (30, 30, 3), dtype=np.uint8))
        size = tuple(generator.integers(70, 130, 2).tolist())
        path = folder / "train" / f"class{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize(size, Image.Resampling.BICUBIC).save(path)
    return folder


def config(folder, **options):
    usual = {"data": "folder", "loader": "files", "data_dir": str(folder), "batch_size": COUNT}
    return ShowViewsOptions.of(**{**usual, "count": COUNT, "threads": 1, **options})


def source_of(sample, folder):
    paths = scan_folder(folder, "train").paths
    return tv.pil_to_tensor(Image.open(paths[int(re.match(r"sample (\d+)", sample.title)[1])]))


def parse(caption):
    """Box, size of the source, jitter as (letter, factor), and the set of the rest."""
    box, jitter, rest = caption.split("\n")
    numbers = [
        int(n) for n in re.fullmatch(r"(\d+),(\d+) (\d+)x(\d+) of (\d+)x(\d+)", box).groups()
    ]
    steps = [] if jitter == "no jitter" else [(s[0], float(s[1:])) for s in jitter.split(" ")]
    return numbers[:4], tuple(numbers[4:]), steps, set(rest.split(", ")) - {""}


def render_by_torchvision(image, caption, size):
    """Apply the operations of a caption to the source image by torchvision's functions."""
    box, _, steps, rest = parse(caption)
    view = tv.resized_crop(image, *box, [size, size], InterpolationMode.BICUBIC, antialias=True)
    if "flip" in rest:
        view = tv.hflip(view)
    view = view / 255
    operations = {"b": tv.adjust_brightness, "c": tv.adjust_contrast,
                  "s": tv.adjust_saturation, "h": tv.adjust_hue}  # fmt: skip
    for letter, factor in steps:
        view = operations[letter](view, factor)
    if "grey" in rest:
        view = tv.rgb_to_grayscale(view, 3)
    for name in rest:
        if name.startswith("blur"):
            view = tv.gaussian_blur(view, [23, 23], [float(name.split()[1])] * 2)
    return tv.solarize(view, 128 / 255) if "solarise" in rest else view


@pytest.mark.parametrize(("crop_size", "views"), [(32, "barlow_twins_small"), (64, "barlow_twins")])
def test_torchvision_makes_the_same_views_of_what_the_captions_say(photographs, crop_size, views):
    """With two digits of each factor; a pixel beside the solarise threshold may differ by all."""
    samples = show_views.collect_samples(config(photographs, crop_size=crop_size, views=views))
    assert len(samples) == COUNT
    seen, plain, errors = set(), 0, []
    for sample in samples:
        image = source_of(sample, photographs)
        for pixels, caption in zip(sample.views, sample.captions, strict=True):
            assert pixels.shape == (crop_size, crop_size, 3)
            _, source, steps, rest = parse(caption)
            assert source == tuple(image.shape[1:])
            expected = render_by_torchvision(image, caption, crop_size).permute(1, 2, 0).numpy()
            error = np.abs(pixels - expected)
            errors.append(np.median(error))
            if not steps and not rest - {"flip", "grey"}:
                plain += 1
                assert error.max() < 1.5 / 255, caption  # torchvision rounds the crop otherwise
            seen |= {name.split()[0] for name in rest}
    assert max(errors) < 0.02
    assert plain
    assert seen == {"flip", "grey", "solarise"} | ({"blur"} if views == "barlow_twins" else set())


def test_views_of_different_sizes_are_what_their_captions_say(photographs, monkeypatch):
    pair = create_views("barlow_twins_small", 32)
    specs = (*pair, *(replace(pair[0], crop_size=20, crop_scale=(0.05, 0.4)),) * 3)
    resolve = show_views.resolve
    monkeypatch.setattr(
        show_views, "resolve", lambda *known, **more: replace(resolve(*known, **more), views=specs)
    )
    for sample in show_views.collect_samples(config(photographs, count=6)):
        assert [len(pixels) for pixels in sample.views] == [32, 32, 20, 20, 20]
        image = source_of(sample, photographs)
        for pixels, caption in zip(sample.views, sample.captions, strict=True):
            expected = render_by_torchvision(image, caption, len(pixels)).permute(1, 2, 0).numpy()
            assert np.median(np.abs(pixels - expected)) < 0.02


def test_the_epoch_and_the_seed_choose_the_batch(photographs):
    first, again, later, other = (
        show_views.collect_samples(config(photographs, **options))
        for options in ({}, {}, {"epoch": 1}, {"seed": 1})
    )
    assert [sample.captions for sample in first] == [sample.captions for sample in again]
    for changed in (later, other):
        assert [sample.title for sample in first] != [sample.title for sample in changed]


def test_images_in_memory_show_the_same_as_files(tmp_path):
    generator = np.random.default_rng(0)
    (tmp_path / "train").mkdir()
    for i in range(COUNT):
        pixels = generator.integers(0, 256, (32, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "train" / f"{i}.png")
    files, memory = (
        show_views.collect_samples(config(tmp_path, loader=loader))
        for loader in ("files", "tensor")
    )
    for one, other in zip(files, memory, strict=True):
        assert (one.title, one.captions) == (other.title, other.captions)
        assert "of 32x40" in one.captions[0]
        np.testing.assert_array_equal(one.views, other.views)


@pytest.mark.slow
def test_a_beton_shows_the_same_as_its_files(photographs, tmp_path):
    write_beton(scan_folder(photographs, "train"), tmp_path / "train.beton", mode="raw")
    files = show_views.collect_samples(config(photographs))
    beton = show_views.collect_samples(config(tmp_path, data="beton", loader="auto"))
    for one, other in zip(files, beton, strict=True):
        assert (one.title, one.captions) == (other.title, other.captions)
        np.testing.assert_array_equal(one.views, other.views)


@pytest.mark.slow
@pytest.mark.parametrize("sides", [(8,), (8, 8), (8, 8, 4, 4, 4, 4, 4, 4)], ids=len)
def test_nothing_overlaps_and_nothing_leaves_the_picture(sides):
    """With the longest captions: sides of four digits, all operations on."""
    caption = "1234,1234 1234x1234 of 4321x4321\nb1.40 h-0.10 c1.40 s1.20\n"
    caption += "flip, grey, blur 2.00, solarise"
    white = tuple(np.ones((side, side, 3), np.float32) for side in sides)
    sample = show_views.Sample("sample 1281166, n02966687", white, (caption,) * len(sides))
    for count in (1, 6):
        figure = show_views.draw_picture([sample] * count, "folder, epoch 0, seed 0")
        figure.canvas.draw()
        widths = [axes.get_window_extent().width for axes in figure.axes]
        np.testing.assert_allclose(np.divide(widths, widths[0]), np.divide(sides * count, sides[0]))
        texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
        boxes = [text.get_window_extent() for text in texts]
        boxes += [axes.get_window_extent() for axes in figure.axes]
        for box in boxes:
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= figure.bbox.width
            assert box.y1 <= figure.bbox.height
        for one, other in combinations(boxes, 2):
            assert not one.overlaps(other)


@pytest.mark.slow
def test_the_script_draws_digits_with_no_options_but_the_file(tmp_path):
    finish(
        start_script("show_views.py", "--out", str(tmp_path / "new" / "views.png"), "--count", "5")
    )
    picture = matplotlib.image.imread(tmp_path / "new" / "views.png")
    width = 4 * (2 * show_views.PANEL + show_views.GAP) + show_views.GAP
    block = show_views.TITLE + show_views.PANEL + show_views.CAPTION
    assert picture.shape[1] == pytest.approx(120 * width, abs=1)
    assert picture.shape[0] == pytest.approx(120 * (2 * block + show_views.HEAD), abs=1)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["views.png"]


def test_a_mistake_is_one_line(tmp_path):
    missing = tmp_path / "missing"
    done = call_script("show_views", "--data", "folder", "--data_dir", missing, "--out", "x.png")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("show_views.py: error: data_dir=")
    assert "Traceback" not in done.stderr


def test_options_out_of_range_are_named():
    for options in ({"count": 0}, {"epoch": -1}, {"out": "runs/digits"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            ShowViewsOptions.of(**options)
    assert ShowViewsOptions.of().picture == "views.png"


def test_few_images_need_no_batch_and_many_fill_one():
    """Eighty images were refused: they are fewer than a batch of the usual size."""
    assert len(show_views.collect_samples(ShowViewsOptions.of(subset=80, threads=1))) == 8
    assert len(show_views.collect_samples(ShowViewsOptions.of(subset=12, threads=1))) == 2
    for count, batch_size in ((200, None), (129, 128)):
        with pytest.raises(ValueError, match=f"count={count} must be from 1 to a batch of 128"):
            show_views.collect_samples(
                ShowViewsOptions.of(count=count, batch_size=batch_size, threads=1)
            )


def test_images_that_are_held_out_are_not_shown():
    options = ShowViewsOptions.of(count=8, batch_size=16, validation=0.5, threads=1)
    data = load_split("digits", None, "train")
    assert data is not None
    trained, _ = hold_out(data, 0.5, options.seed)
    order = next(trained.epoch_order(16, options.seed, cache="os").steps(0))[:8]
    expected = [f"sample {i}, {int(trained.labels[i])}" for i in order]
    assert [sample.title for sample in show_views.collect_samples(options)] == expected


def test_captions_of_digits_come_from_the_data_set():
    samples = show_views.collect_samples(
        ShowViewsOptions.of(count=3, batch_size=4, subset=100, threads=1)
    )
    data = load_split("digits", None, "train")
    assert data is not None
    assert all(re.fullmatch(r"sample \d+, \d", sample.title) for sample in samples)
    assert all("of 32x32" in caption for sample in samples for caption in sample.captions)
