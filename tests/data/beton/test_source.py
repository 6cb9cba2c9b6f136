"""Betons read without FFCV, beside the same images read as files."""

import io
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.betons import (
    BATCH,
    COUNT,
    CPU,
    MIXED,
    RENDERER,
    SEED,
    SIDE,
    SIZES,
    assert_same,
    collect,
    loader,
    make_betons,
)
from PIL import Image

from sslortho.augment import EvaluationRenderer, EvaluationSpec, ViewRenderer, ViewSpec
from sslortho.augment.cpu.view_kernel import crop_views
from sslortho.data import (
    EpochOrder,
    EvaluationViewLoader,
    ImageFiles,
    PageOrder,
    PixelSource,
    ViewLoader,
    balanced_subset,
    load_split,
)
from sslortho.data.beton.file_format import JPG, read_beton
from sslortho.data.beton.page_cache import AHEAD, PageCache
from sslortho.data.beton.source import BetonSource
from sslortho.data.beton.stored_jpeg import check_stored, decode_stored
from sslortho.data.beton.writer import write_beton

SUPERVISED = ViewRenderer((ViewSpec(crop_size=SIDE, jitter_p=0, grayscale_p=0, blur_p=0),), SEED)
PADDED = ViewRenderer(tuple(replace(view, crop_padding=5) for view in SUPERVISED.specs), SEED)
EVALUATION = EvaluationRenderer(EvaluationSpec(crop_size=SIDE, resize=28), channels_last=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Image files and the folder of their beton, by mode."""
    return make_betons(tmp_path_factory.mktemp)


def beton(folder: Path, cache: str = "os") -> BetonSource:
    return BetonSource(load_split("beton", folder, "train"), cache)


@pytest.mark.parametrize("cache", ["os", "process"])
@pytest.mark.parametrize("mode", ["raw", "jpg"])
def test_views_are_bit_for_bit_those_of_the_files(data, mode, cache):
    """Raw pixels of lossless files, and JPEGs that kept their bytes."""
    files, folder = data[mode]
    if mode == "jpg":
        assert (read_beton(folder / "train.beton").images["mode"] == JPG).all()
    for epoch in (0, 5):
        expected = collect(loader(PixelSource(files)), epoch)
        assert_same(collect(loader(beton(folder, cache)), epoch), expected)


@pytest.mark.parametrize("cache", ["os", "process"])
def test_evaluation_views_are_those_of_the_files_in_order(data, cache):
    files, folder = data["raw"]
    for rank in range(3):
        ours = EvaluationViewLoader(beton(folder, cache), EVALUATION, 6, CPU, 2, rank, 3)
        theirs = EvaluationViewLoader(PixelSource(files), EVALUATION, 6, CPU, 0, rank, 3)
        assert_same(collect(ours), collect(theirs))
    whole = EvaluationViewLoader(beton(folder, cache), EVALUATION, 16, CPU, 2)
    assert [len(batch.labels) for batch in whole] == [16, 16, 8]  # nothing is dropped
    assert torch.cat([batch.labels for batch in whole]).tolist() == files.labels.tolist()


@pytest.mark.parametrize("cache", ["os", "process"])
@pytest.mark.parametrize("workers", [0, 2])
def test_views_of_different_sizes_are_those_of_the_files(data, cache, workers):
    files, folder = data["raw"]
    expected = collect(loader(PixelSource(files), MIXED, 0), 1)
    assert tuple(view.shape[2] for view in expected[0][:-1]) == SIZES
    assert_same(collect(loader(beton(folder, cache), MIXED, workers), 1), expected)


@pytest.mark.parametrize("renderer", [SUPERVISED, PADDED], ids=["resized", "padded"])
def test_one_view_for_supervised_training(data, renderer):
    files, folder = data["raw"]
    ours = collect(loader(beton(folder), renderer))
    assert [len(batch) for batch in ours] == [2] * 3
    assert_same(ours, collect(loader(PixelSource(files), renderer)))


def test_an_image_too_small_for_its_padded_crop_is_refused(data):
    specs = tuple(replace(view, crop_size=80, crop_padding=2) for view in SUPERVISED.specs)
    with pytest.raises(ValueError, match="smaller than crop_size even with crop_padding"):
        collect(loader(beton(data["raw"][1]), ViewRenderer(specs, SEED)))


def test_a_smart_file_holds_both_kinds_and_reads_as_written(data):
    files, folder = data["smart"]
    modes = read_beton(folder / "train.beton").images["mode"]
    assert 0 < (modes == JPG).sum() < COUNT
    ours = collect(loader(beton(folder)))
    theirs = collect(loader(PixelSource(files)))
    raw = modes != JPG
    for step, indices in enumerate(EpochOrder(COUNT, BATCH, SEED).steps(0)):
        for a, b in zip(ours[step][:2], theirs[step][:2], strict=True):
            assert torch.equal(a[raw[indices]], b[raw[indices]])
            assert (a - b).abs().mean() < 0.2  # the rest is a JPEG of quality 90


@pytest.mark.parametrize("cache", ["os", "process"])
def test_workers_and_resuming_change_no_bit(data, cache):
    _, folder = data["jpg"]
    source = beton(folder, cache)
    whole = collect(loader(source, workers=0), 4)
    for workers in (1, 2, 3):
        assert_same(collect(loader(source, workers=workers), 4), whole)
    for start in (1, 2):
        assert_same(collect(loader(source), 4, start), whole[start:])
    broken_off = loader(source)
    next(iter(broken_off))
    assert_same(collect(broken_off, 4), whole)


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_ranks_together_see_what_one_sees(data, world_size):
    _, folder = data["jpg"]
    source = beton(folder)
    whole = collect(loader(source), 1)
    ranks = [
        collect(loader(source, rank=rank, world_size=world_size), 1) for rank in range(world_size)
    ]
    joined = [
        tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
        for batches in zip(*ranks, strict=True)
    ]
    assert_same(joined, whole)


def test_two_loaders_may_run_at_once(data):
    _, folder = data["jpg"]
    source = beton(folder)
    alone = collect(loader(source), 0)
    first, second = iter(loader(source)), iter(loader(beton(folder, "process")))
    together = [(next(first), next(second)) for _ in alone]
    for pair, expected in zip(together, alone, strict=True):
        for batch in pair:
            assert_same([(*batch.views, batch.labels)], [expected])


def test_the_crops_for_a_gpu_are_those_of_the_kernel(data):
    """One call for all views, compared with a call for each."""
    files, folder = data["raw"]
    source = beton(folder)
    indices = np.array([7, 0, 33, 12])
    draws = MIXED.draw(indices, 2)
    ours = np.zeros((4, sum(3 * size * size for size in SIZES)), np.uint8)
    with source.open([indices], MIXED) as reading:
        reading.prepare(0, None)
        reading.crop(indices, draws, ours, 2, 4)
        assert not ours[:2].any()
        reading.crop(indices, draws, ours, 0, 2)
    for i, index in enumerate(indices):
        pixels, theirs = np.array(Image.open(files.paths[index])), []
        for v, size in enumerate(SIZES):
            theirs.append(np.zeros((size, size, 3), np.uint8))
            crop_views(
                pixels, draws.uniforms[i, v : v + 1], MIXED.settings[v : v + 1], theirs[v][None]
            )
        np.testing.assert_array_equal(ours[i], np.concatenate([crop.ravel() for crop in theirs]))


def test_a_page_order_is_read_by_a_process_cache(data):
    files, folder = data["raw"]
    images = load_split("beton", folder, "train")
    order = PageOrder(COUNT, BATCH, SEED, pages=images.pages)
    ours = ViewLoader(beton(folder, "process"), RENDERER, order, CPU, 2)
    assert_same(
        collect(ours, 3), collect(ViewLoader(PixelSource(files), RENDERER, order, CPU, 2), 3)
    )


def test_a_subset_is_of_those_images(data):
    files, folder = data["raw"]
    ours = balanced_subset(load_split("beton", folder, "train"), 16, 0)
    theirs = balanced_subset(files, 16, 0)
    source = BetonSource(ours)
    order = EpochOrder(16, 8, SEED)
    assert_same(
        collect(ViewLoader(source, RENDERER, order, CPU, 2)),
        collect(ViewLoader(PixelSource(theirs), RENDERER, order, CPU, 2)),
    )


@pytest.mark.parametrize("cache", ["os", "process"])
def test_a_share_without_images_is_empty(data, cache):
    source = beton(data["raw"][1], cache)
    shares = [EvaluationViewLoader(source, EVALUATION, 6, CPU, 2, r, 100) for r in range(100)]
    assert sorted(len(collect(share)) for share in shares)[-8:] == [0] + [1] * 7  # of 6 images or 4
    assert list(shares[0]) == []


@pytest.mark.parametrize("cache", ["os", "process"])
def test_a_file_that_has_changed_is_not_read_on(data, tmp_path, cache):
    path = tmp_path / "train.beton"
    content = (data["raw"][1] / "train.beton").read_bytes()
    path.write_bytes(content)
    source = beton(tmp_path, cache)
    assert_same(*(collect(loader(source), 1) for _ in range(2)))
    shorter, newer = (content[:-200], 0), (content, 2 * 10**9)
    for other, later in (shorter, newer):
        new, written = tmp_path / "new", path.stat().st_mtime_ns
        new.write_bytes(other)
        os.utime(new, ns=(written, written + later))
        new.replace(path)  # as write_beton does: the file that is mapped stays whole
        with pytest.raises(OSError, match=r"train\.beton has changed"):
            collect(loader(source), 1)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        collect(loader(source), 1)


def make_page_cache(path, batches, page_size=64):
    return PageCache(path, page_size, [np.array(b) for b in batches])


def test_a_page_cache_holds_each_batchs_pages_and_little_more(tmp_path):
    rng = np.random.default_rng(0)
    content = rng.integers(0, 256, 64 * 99 + 20, dtype=np.uint8)  # the last page is not full
    (tmp_path / "file").write_bytes(content.tobytes())
    batches = [rng.integers(0, 100, 5) for _ in range(200)]
    with make_page_cache(tmp_path / "file", batches) as cache:
        assert len(cache.memory) <= 5 * (AHEAD + 1)
        memory, slots = cache.memory, cache.slot_of_page
        for step, pages in enumerate(batches):
            cache.start_batch(step)
            for page in pages:
                expected = content[64 * page : 64 * (page + 1)]
                np.testing.assert_array_equal(memory[slots[page]][: len(expected)], expected)


def test_a_page_that_cannot_be_read_is_an_error_where_it_is_due(tmp_path):
    (tmp_path / "file").write_bytes(bytes(64 * 20))
    batches = [[0], [1], [2], [3], [4], [19], [5]]
    with make_page_cache(tmp_path / "file", batches) as cache:
        cache.start_batch(0)
        os.truncate(tmp_path / "file", 64 * 10)
        for step in range(1, 5):
            cache.start_batch(step)
        with pytest.raises(OSError, match="has become shorter"):
            cache.start_batch(5)


def damaged(folder: Path, tmp_path: Path, sample: int, damage) -> Path:
    original = folder / "train.beton"
    place = read_beton(original).images["data_ptr"][sample]
    content = bytearray(original.read_bytes())
    damage(content, int(place))
    (tmp_path / "train.beton").write_bytes(content)
    return tmp_path


def overwrite_start(content: bytearray, place: int) -> None:
    content[place : place + 8] = b"no JPEG!"


def other_size(content: bytearray, place: int) -> None:
    start = content.index(b"\xff\xc0", place)  # the frame header: length, precision, height, width
    content[start + 5 : start + 7] = (9).to_bytes(2, "big")


@pytest.mark.parametrize("damage", [overwrite_start, other_size])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_decoded_is_named(data, tmp_path, damage, workers):
    order = list(EpochOrder(COUNT, BATCH, SEED).steps(0))
    victim = int(order[1][5])
    source = beton(damaged(data["jpg"][1], tmp_path, victim, damage))
    batches = iter(loader(source, workers=workers))
    next(batches)
    with pytest.raises(ValueError, match=rf"image {victim} of .*train.beton cannot be decoded"):
        next(batches)


def test_raw_pixels_of_a_file_that_has_shrunk_are_named(data, tmp_path):
    path = tmp_path / "train.beton"
    path.write_bytes((data["raw"][1] / "train.beton").read_bytes())
    images = load_split("beton", tmp_path, "train")
    images.open(0)  # which reads the table
    os.truncate(path, int(read_beton(path).images["data_ptr"][7]) + 100)
    with pytest.raises(ValueError, match=r"image 7 of .*train\.beton cannot be decoded"):
        images.open(7)


def test_a_jpeg_that_libjpeg_warns_of_is_read_as_pil_reads_it(data, tmp_path):
    """ImageNet has such files: bytes too many before a marker."""
    original, _ = data["jpg"]
    paths = []
    for i in range(BATCH):
        content = Path(original.paths[i]).read_bytes()
        paths.append(str(tmp_path / f"{i}.jpg"))
        Path(paths[-1]).write_bytes(content[:-2] + b"\x12\x34\x56" + content[-2:])
    files = ImageFiles(tuple(paths), original.labels[:BATCH], original.classes)
    manifest = write_beton(files, tmp_path / "train.beton")
    assert manifest["kept"] == BATCH
    order = EpochOrder(BATCH, BATCH, SEED)
    assert_same(
        collect(ViewLoader(beton(tmp_path), RENDERER, order, CPU, 1)),
        collect(ViewLoader(PixelSource(files), RENDERER, order, CPU, 1)),
    )


def test_a_truncated_file_is_refused_before_it_is_read(data, tmp_path):
    content = (data["jpg"][1] / "train.beton").read_bytes()
    for length in (0, 10, 3000, len(content) // 2, len(content) - 1):
        (tmp_path / "train.beton").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"train\.beton"):
            load_split("beton", tmp_path, "train")


def test_a_folder_without_betons_says_how_to_write_one(tmp_path):
    with pytest.raises(ValueError, match=r"holds no train.beton; .*sslortho write_beton"):
        load_split("beton", tmp_path, "train")
    assert load_split("beton", tmp_path, "test") is None


def test_classes_come_from_the_manifest(data):
    assert load_split("beton", data["raw"][1], "train").classes == tuple("abcd")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"count": 40}', "is not the manifest of a beton"),
        ("[]", "is not the manifest of a beton"),
        ('{"count": 40, "cla', "is not the manifest of a beton"),
        ('{"count": 39, "classes": []}', "is of a beton of 39 images"),
    ],
)
def test_a_manifest_that_is_no_use_is_named(data, tmp_path, content, message):
    (tmp_path / "train.beton").write_bytes((data["raw"][1] / "train.beton").read_bytes())
    (tmp_path / "train.beton.json").write_text(content)
    with pytest.raises(ValueError, match=rf"train\.beton\.json {message}"):
        load_split("beton", tmp_path, "train")


def test_test_classes_other_than_the_training_ones_are_refused(data, tmp_path):
    for name, classes in (("train", ["a", "b", "c", "d"]), ("val", ["a", "b", "c", "e"])):
        (tmp_path / f"{name}.beton").write_bytes((data["raw"][1] / "train.beton").read_bytes())
        manifest = json.dumps({"count": COUNT, "classes": classes})
        (tmp_path / f"{name}.beton.json").write_text(manifest)
    with pytest.raises(ValueError, match="do not have the same classes"):
        load_split("beton", tmp_path, "test")


def test_raw_pixels_in_mapped_memory_need_no_kernel_of_their_own(data):
    """numba compiles anew for arrays that say they are read-only, as a map of a file does."""
    source, batch = beton(data["raw"][1]), np.arange(3)
    with source.open([batch], RENDERER) as reading:
        reading.prepare(0, None)
        for place in source.places[batch]:
            start, size = source.file.images["data_ptr"][place], source.file.sizes[place]
            pixels = reading.content.read(int(start), int(size))
            assert pixels.size > 0
            assert pixels.flags.writeable


@pytest.mark.parametrize("cache", ["os", "process"])
def test_images_that_a_loader_has_read_are_no_more_to_send_to_a_process(data, cache):
    """A map of a file would be sent whole."""
    _, folder = data["raw"]
    images = load_split("beton", folder, "train")
    collect(loader(images.source(cache)))
    assert len(pickle.dumps(images)) < (folder / "train.beton").stat().st_size / 10


def test_one_image_and_a_loader_agree_on_jpegs_that_libjpeg_warns_of(data, tmp_path):
    original, _ = data["jpg"]
    content = Path(original.paths[1]).read_bytes()
    (tmp_path / "odd.jpg").write_bytes(content[:-2] + b"\x12\x34\x56" + content[-2:])
    files = ImageFiles((str(tmp_path / "odd.jpg"),), original.labels[:1], original.classes)
    assert write_beton(files, tmp_path / "train.beton")["kept"] == 1
    opened = load_split("beton", tmp_path, "train").open(0)
    with Image.open(original.paths[1]) as image:
        np.testing.assert_array_equal(opened, np.asarray(image))


def read_jpeg(data) -> tuple[bytes, int, int]:
    """A JPEG's bytes, its width and its height."""
    content = Path(data["jpg"][0].paths[1]).read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        return content, *image.size


JPEG_FAULTS = [
    (lambda content: content[: len(content) // 2], "truncated"),
    (lambda content: b"no JPEG!" + content[8:], "cannot identify"),
    (lambda content: b"", "cannot identify"),
]


@pytest.mark.parametrize(("damage", "reason"), JPEG_FAULTS)
@pytest.mark.parametrize("examine", [decode_stored, check_stored])
def test_a_damaged_jpeg_is_refused_with_a_reason(data, damage, reason, examine):
    content, width, height = read_jpeg(data)
    examine(content, height, width)
    with pytest.raises(ValueError, match=reason):
        examine(damage(content), height, width)


@pytest.mark.parametrize("side", [(-1, 0), (0, -1), (1, 0), (0, 5)])
@pytest.mark.parametrize("examine", [decode_stored, check_stored])
def test_a_jpeg_of_another_size_than_its_record_is_refused(data, side, examine):
    content, width, height = read_jpeg(data)
    said = width + side[0], height + side[1]
    with pytest.raises(
        ValueError, match=f"is {width} x {height} pixels, its record says {said[0]}"
    ):
        examine(content, said[1], said[0])


BLOCKED = """
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ffcv":
            raise ModuleNotFoundError("ffcv is blocked")

sys.meta_path.insert(0, Blocker())
"""

WHOLE_WAY = """
import numpy as np, torch, sslortho
from pathlib import Path
from sslortho.data import ImageArray, require_ffcv
from sslortho.data.beton import write_beton
folder = Path(sys.argv[1])
pixels = np.random.default_rng(0).integers(0, 256, (24, 3, 16, 16), dtype=np.uint8)
write_beton(ImageArray(torch.from_numpy(pixels), torch.arange(24) % 2, ("a", "b")), folder / "train.beton")
for cache in ("os", "process"):
    sslortho.pretrain(
        "beton", "basic_cnn", data_dir=str(folder), cache=cache, out=str(folder / cache), batch_size=8,
        epochs=1, crop_size=16, projector="8-8", trackers="none", linear_probe=False, threads=1,
        announce=False,
    )
try:
    require_ffcv()
except ValueError as error:
    assert "FFCV is missing (ffcv is blocked)" in str(error), error
else:
    raise AssertionError("the blocker does not block")
assert not [name for name in sys.modules if name.split(".")[0] == "ffcv"]
"""


@pytest.mark.slow
def test_betons_are_written_and_trained_on_where_ffcv_cannot_be_imported(tmp_path):
    subprocess.run([sys.executable, "-c", BLOCKED + WHOLE_WAY, str(tmp_path)], check=True)
    for cache in ("os", "process"):
        assert json.loads((tmp_path / cache / "summary.json").read_text())["steps"] == 3
