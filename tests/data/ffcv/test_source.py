"""Betons through FFCV, beside the same images read as files."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sslortho.augment import (
    EvaluationRenderer,
    EvaluationSpec,
    ViewRenderer,
    ViewSpec,
    create_views,
)
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
    require_ffcv,
)
from sslortho.data.ffcv.beton import JPG, read_beton
from sslortho.data.ffcv.page_cache import AHEAD, PageCache
from sslortho.data.ffcv.writer import write_beton

CPU = torch.device("cpu")
COUNT, BATCH, SEED, SIDE = 40, 12, 3, 24
PAIR = create_views("barlow_twins", SIDE)
RENDERER = ViewRenderer(PAIR, seed=SEED, channels_last=True)
SIZES = (24, 9, 31, 9)
VIEWS_OF_SIZES = tuple(replace(PAIR[1], crop_size=s, blur_p=0.5, blur_taps=9) for s in SIZES)
MIXED = ViewRenderer(VIEWS_OF_SIZES, seed=SEED, channels_last=True)
SUPERVISED = ViewRenderer((ViewSpec(crop_size=SIDE, jitter_p=0, grayscale_p=0, blur_p=0),), SEED)
PADDED = ViewRenderer(tuple(replace(view, crop_padding=5) for view in SUPERVISED.specs), SEED)
EVALUATION = EvaluationRenderer(EvaluationSpec(crop_size=SIDE, resize=28), channels_last=True)

pytestmark = pytest.mark.slow  # FFCV compiles its pipelines

with_ffcv = pytest.mark.usefixtures("ffcv")


@pytest.fixture(scope="module")
def ffcv():
    pytest.importorskip("ffcv")
    return require_ffcv()


def waves(height: int, width: int, seed: int) -> np.ndarray:
    y, x = np.mgrid[0 : 5 : height * 1j, 0 : 7 : width * 1j][..., None]
    noise = np.random.default_rng(seed).normal(0, 12, (height, width, 3))
    return (128 + 90 * np.sin(y + x * np.arange(1, 4) + seed) + noise).clip(0, 255).astype(np.uint8)


def make_files(folder: Path, suffix: str) -> ImageFiles:
    folder.mkdir()
    paths = []
    for i in range(COUNT):
        paths.append(str(folder / f"{i:02}.{suffix}"))
        pixels = waves(30 + 3 * i % 41, 90 - i, i)
        options = {"quality": 88} if suffix == "jpg" else {}
        # every fifth JPEG is a grey one
        mode = "L" if suffix == "jpg" and i % 5 == 0 else "RGB"
        Image.fromarray(pixels).convert(mode).save(paths[-1], **options)
    return ImageFiles(tuple(paths), torch.arange(COUNT) % 4, tuple("abcd"))


@pytest.fixture(scope="module")
def data(tmp_path_factory, ffcv):
    """Image files and the folder of their beton, by mode; lossless sources for raw pixels."""
    made = {}
    for mode, suffix in (("raw", "png"), ("jpg", "jpg"), ("smart", "png")):
        folder = tmp_path_factory.mktemp(mode)
        files = make_files(folder / "files", suffix)
        write_beton(files, folder / "train.beton", mode=mode, workers=2)
        made[mode] = (files, folder)
    return made


def beton(folder: Path, cache: str = "os"):
    return require_ffcv().BetonSource(load_split("beton", folder, "train"), cache)


def collect(loader, epoch: int = 0, start_step: int = 0) -> list[tuple[torch.Tensor, ...]]:
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(epoch, start_step)
    return [(*batch.views, batch.labels) for batch in loader]


def assert_same(ours, theirs) -> None:
    assert len(ours) == len(theirs) > 0
    for batch_a, batch_b in zip(ours, theirs, strict=True):
        for a, b in zip(batch_a, batch_b, strict=True):
            assert torch.equal(a, b)


def loader(source, renderer=RENDERER, workers=2, **ranks):
    return ViewLoader(source, renderer, EpochOrder(COUNT, BATCH, SEED, **ranks), CPU, workers)


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


@with_ffcv
@pytest.mark.parametrize("renderer", [SUPERVISED, PADDED], ids=["resized", "padded"])
def test_one_view_for_supervised_training(data, renderer):
    files, folder = data["raw"]
    ours = collect(loader(beton(folder), renderer))
    assert [len(batch) for batch in ours] == [2] * 3
    assert_same(ours, collect(loader(PixelSource(files), renderer)))


@with_ffcv
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


@with_ffcv
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
    source = require_ffcv().BetonSource(ours)
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
    whole = collect(loader(source), 1)
    path.unlink()  # a new file, as write_beton makes it: the one that is mapped stays whole
    path.write_bytes(content[:-200])
    with pytest.raises(OSError, match=r"train\.beton has changed"):
        collect(loader(source), 1)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        collect(loader(source), 1)
    path.write_bytes(content)
    assert_same(collect(loader(source), 1), whole)


def make_page_cache(path, batches, page_size=64):
    return PageCache(path, page_size, [np.array(b) for b in batches], *np.zeros((2, 1), np.uint64))


def test_a_page_cache_holds_each_batchs_pages_and_little_more(tmp_path):
    rng = np.random.default_rng(0)
    content = rng.integers(0, 256, 64 * 99 + 20, dtype=np.uint8)  # the last page is not full
    (tmp_path / "file").write_bytes(content.tobytes())
    batches = [rng.integers(0, 100, 5) for _ in range(200)]
    with make_page_cache(tmp_path / "file", batches) as cache:
        assert len(cache.memory) <= 5 * (AHEAD + 1)
        memory, _, _, slots = cache.state
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


def test_ffcvs_empty_fields_do_not_stand_in_for_images(data, tmp_path, ffcv):
    from ffcv.fields import BytesField, IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    files, _ = data["raw"]
    samples = [
        (np.zeros(0, np.uint8), int(label), np.array(Image.open(path)))
        for path, label in zip(files.paths, files.labels, strict=True)
    ]
    fields = {"empty": BytesField(), "label": IntField(), "image": RGBImageField(write_mode="raw")}
    DatasetWriter(str(tmp_path / "train.beton"), fields, num_workers=1).from_indexed_dataset(
        samples
    )
    for cache in ("os", "process"):
        assert_same(collect(loader(beton(tmp_path, cache))), collect(loader(PixelSource(files))))


def test_ffcvs_own_files_are_read(data, tmp_path, ffcv):
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    files, _ = data["raw"]
    samples = [
        (int(label), np.array(Image.open(path)))
        for path, label in zip(files.paths, files.labels, strict=True)
    ]
    fields = {"label": IntField(), "image": RGBImageField(write_mode="raw")}
    DatasetWriter(str(tmp_path / "train.beton"), fields, num_workers=1).from_indexed_dataset(
        samples
    )
    assert_same(collect(loader(beton(tmp_path))), collect(loader(PixelSource(files))))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_order_shards_ffcvs_own_loader_without_loss_or_doubling(data, ffcv, world_size):
    from ffcv.fields.basics import IntDecoder
    from ffcv.loader import Loader
    from ffcv.transforms import ToTensor

    _, folder = data["raw"]
    threads = torch.get_num_threads()
    parts = []
    for rank in range(world_size):
        order = EpochOrder(COUNT, BATCH, SEED, rank, world_size)
        stock = Loader(
            str(folder / "train.beton"),
            batch_size=BATCH // world_size,
            num_workers=1,
            order=ffcv.ShardedOrder(order),
            pipelines={"image": None, "label": [IntDecoder(), ToTensor()]},
        )
        batches = [labels.flatten().clone() for (labels,) in stock]
        expected = list(order.steps(0))
        assert len(batches) == len(expected) == 3
        for labels, indices in zip(batches, expected, strict=True):
            assert labels.tolist() == (indices % 4).tolist()
        parts.append(np.concatenate(expected))
    torch.set_num_threads(threads)
    together = np.concatenate(parts)
    assert len(together) == len(set(together.tolist())) == 36


def test_asking_for_ffcv_leaves_torchs_threads_alone():
    program = (
        "import torch; torch.set_num_threads(3)\n"
        "from sslortho.data import require_ffcv\n"
        "require_ffcv(); print(torch.get_num_threads())"
    )
    pytest.importorskip("ffcv")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "3"


def test_without_ffcv_the_message_names_the_extra_and_the_packages(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "ffcv"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ffcv", None)
    with pytest.raises(ValueError, match="needs FFCV") as caught:
        require_ffcv()
    for word in ("sslortho[ffcv]", "libturbojpeg0-dev", "libopencv-dev", "pkg-config"):
        assert word in str(caught.value)
