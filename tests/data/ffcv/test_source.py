"""Betons through FFCV, beside the same betons read without it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.betons import (
    BATCH,
    COUNT,
    CPU,
    MIXED,
    SEED,
    SIDE,
    SIZES,
    assert_same,
    collect,
    loader,
    make_betons,
    waves,
)
from PIL import Image

from sslortho.augment import EvaluationRenderer, EvaluationSpec
from sslortho.data import (
    EpochOrder,
    EvaluationViewLoader,
    ImageFiles,
    PixelSource,
    load_split,
    require_ffcv,
)
from sslortho.data.beton.file_format import JPG, RAW, read_beton
from sslortho.data.beton.source import BetonSource
from sslortho.data.beton.writer import write_beton

pytestmark = pytest.mark.slow  # FFCV compiles its pipelines


@pytest.fixture(scope="module")
def ffcv():
    pytest.importorskip("ffcv")
    return require_ffcv()


@pytest.fixture(scope="module")
def data(tmp_path_factory, ffcv):
    """Image files and the folder of their beton, by mode."""
    return make_betons(tmp_path_factory.mktemp)


def both(folder: Path, cache: str = "os"):
    """The source through FFCV, and the one without it."""
    images = load_split("beton", folder, "train")
    return require_ffcv().BetonSource(images, cache), BetonSource(images, cache)


@pytest.mark.parametrize("cache", ["os", "process"])
@pytest.mark.parametrize("mode", ["raw", "jpg", "smart"])
def test_views_are_bit_for_bit_the_same_with_and_without_ffcv(data, mode, cache):
    theirs, ours = both(data[mode][1], cache)
    for epoch in (0, 5):
        assert_same(collect(loader(ours), epoch), collect(loader(theirs), epoch))
    assert_same(collect(loader(ours, MIXED, 0), 1), collect(loader(theirs, MIXED, 2), 1))


@pytest.mark.parametrize("cache", ["os", "process"])
def test_evaluation_views_and_shares_of_ranks_are_the_same(data, cache):
    theirs, ours = both(data["jpg"][1], cache)
    renderer = EvaluationRenderer(EvaluationSpec(crop_size=SIDE, resize=28), channels_last=True)
    for rank in range(3):
        one, other = (
            EvaluationViewLoader(source, renderer, 6, CPU, 2, rank, 3) for source in (ours, theirs)
        )
        assert_same(collect(one), collect(other))
    share = {"rank": 1, "world_size": 3}
    assert_same(collect(loader(ours, **share), 1, 1), collect(loader(theirs, **share), 1, 1))


def test_crops_for_a_gpu_are_the_same(data):
    indices = np.array([7, 0, 33, 12])
    draws, crops = MIXED.draw(indices, 2), []
    for source in both(data["jpg"][1]):
        crops.append(np.zeros((4, sum(3 * size * size for size in SIZES)), np.uint8))
        with source.open([indices], MIXED) as reading:
            reading.prepare(0, None)
            reading.crop(indices, draws, crops[-1], 2, 4)
            reading.crop(indices, draws, crops[-1], 0, 2)
    assert crops[0].any()
    np.testing.assert_array_equal(*crops)


def test_both_may_run_at_once(data):
    theirs, ours = both(data["jpg"][1])
    alone = collect(loader(ours))
    first, second = iter(loader(theirs)), iter(loader(ours))
    for expected in alone:
        for batches in (first, second):
            batch = next(batches)
            assert_same([(*batch.views, batch.labels)], [expected])


@pytest.mark.parametrize("cache", ["os", "process"])
def test_a_file_that_has_changed_is_not_read_on_through_ffcv(data, tmp_path, cache):
    path = tmp_path / "train.beton"
    content = (data["raw"][1] / "train.beton").read_bytes()
    path.write_bytes(content)
    theirs, _ = both(tmp_path, cache)
    path.unlink()
    path.write_bytes(content[:-200])
    with pytest.raises(OSError, match=r"train\.beton has changed"):
        collect(loader(theirs), 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_ffcv_cannot_decode_is_named(data, tmp_path, workers):
    original = data["jpg"][1] / "train.beton"
    victim = int(next(iter(EpochOrder(COUNT, BATCH, SEED).steps(0)))[5])
    place, content = int(read_beton(original).images["data_ptr"][victim]), original.read_bytes()
    path = tmp_path / "train.beton"
    path.write_bytes(content[:place] + b"no JPEG!" + content[place + 8 :])
    theirs, _ = both(tmp_path)
    with pytest.raises(ValueError, match=rf"image {victim} of .*train.beton cannot be decoded"):
        next(iter(loader(theirs, workers=workers)))


def write_with_ffcv(path: Path, pixels, labels, **options) -> None:
    from ffcv.fields import BytesField, IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    samples = [
        (np.zeros(0, np.uint8), int(label), image)
        for image, label in zip(pixels, labels, strict=True)
    ]
    # FFCV looks bytes up by where they begin: those of the empty field begin at byte 0
    fields = {"empty": BytesField(), "label": IntField(), "image": RGBImageField(**options)}
    DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(samples)


@pytest.mark.parametrize("cache", ["os", "process"])
def test_raw_files_of_ffcvs_own_writer_are_read(data, tmp_path, cache):
    files, _ = data["raw"]
    pixels = [np.array(Image.open(path)) for path in files.paths]
    write_with_ffcv(tmp_path / "train.beton", pixels, files.labels, write_mode="raw")
    expected = collect(loader(PixelSource(files)))
    for source in both(tmp_path, cache):
        assert_same(collect(loader(source)), expected)


@pytest.mark.parametrize(
    ("options", "modes"),
    [
        ({"write_mode": "jpg", "jpeg_quality": 80}, {JPG}),
        ({"write_mode": "jpg", "max_resolution": 40}, {JPG}),
        ({"write_mode": "proportion", "compress_probability": 0.5}, {JPG, RAW}),
        ({"write_mode": "smart", "smart_threshold": 6000}, {JPG, RAW}),
    ],
    ids=["jpg", "resized", "proportion", "smart"],
)
def test_all_modes_of_ffcvs_own_writer_are_read_as_ffcv_reads_them(tmp_path, ffcv, options, modes):
    pixels = [waves(30 + 3 * i % 41, 90 - i, i) for i in range(COUNT)]
    write_with_ffcv(tmp_path / "train.beton", pixels, torch.arange(COUNT) % 4, **options)
    assert set(read_beton(tmp_path / "train.beton").images["mode"].tolist()) == modes
    theirs, ours = both(tmp_path)
    assert_same(collect(loader(ours)), collect(loader(theirs)))


def test_what_is_written_here_is_what_ffcv_reads_of_it(tmp_path, ffcv):
    """An odd JPEG too: with a few bytes too many, which libjpeg warns of."""
    (tmp_path / "files").mkdir()
    paths = []
    for i in range(COUNT):
        paths.append(str(tmp_path / "files" / f"{i}.jpg"))
        Image.fromarray(waves(50, 60 + i, i)).save(paths[-1])
        content = Path(paths[-1]).read_bytes()
        Path(paths[-1]).write_bytes(content[:-2] + b"\x12\x34\x56" + content[-2:])
    files = ImageFiles(tuple(paths), torch.arange(COUNT) % 4, ())
    assert write_beton(files, tmp_path / "train.beton")["kept"] == COUNT
    theirs, ours = both(tmp_path)
    assert_same(collect(loader(ours)), collect(loader(theirs)))


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
    with pytest.raises(ValueError, match="FFCV is missing") as caught:
        require_ffcv()
    for word in ("sslortho[ffcv]", "libturbojpeg0-dev", "libopencv-dev", "pkg-config"):
        assert word in str(caught.value)
