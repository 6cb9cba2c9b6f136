"""write_beton: what FFCV and PIL find in the file, and what is left when something goes wrong."""

import errno
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sslortho.atomic import find_partials
from sslortho.data import BetonImages, ImageArray, ImageFiles
from sslortho.data.beton import writer
from sslortho.data.beton.file_format import JPG, RAW, read_beton
from sslortho.data.beton.image_encoding import ImageEncoding, encode_file, is_plain_jpeg
from sslortho.data.beton.manifest import manifest_path, read_names, write_names
from sslortho.data.beton.writer import write_beton
from sslortho.data.tar_shards import load_shards
from sslortho.version import __version__

MIB = 1 << 20


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth, so that a JPEG is near to it, and unlike any other."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def in_memory(count: int, height: int, width: int) -> ImageArray:
    pixels = np.stack([picture(i, height, width) for i in range(count)])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return ImageArray(images, torch.arange(count) * 7 - 1, tuple("abc"))


def save(folder: Path, name: str, image: Image.Image, **options) -> str:
    image.save(folder / name, **options)
    return str(folder / name)


def files(*paths: str) -> ImageFiles:
    return ImageFiles(tuple(paths), torch.arange(len(paths)) + 10, ("x", "y"))


def stored(path: Path) -> list[bytes]:
    data, content = read_beton(path), path.read_bytes()
    starts = data.images["data_ptr"].tolist()
    return [content[a : a + n] for a, n in zip(starts, data.sizes.tolist(), strict=True)]


def decoded(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


def pixels_of(path: str, mode: str | None = None) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert(mode))


def write_one(path: str, out: Path, **options) -> tuple[np.void, bytes, dict]:
    """The record, the bytes and the manifest of a beton of one file."""
    manifest = write_beton(files(path), out, **options)
    return read_beton(out).images[0], stored(out)[0], manifest


@pytest.fixture
def out(tmp_path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "train.beton"


# Against FFCV


needs_ffcv = pytest.mark.skipif(find_spec("ffcv") is None, reason="needs ffcv")

READ_WITH_FFCV = """
import sys
import numpy as np
from ffcv.loader import Loader, OrderOption

path, out = sys.argv[1:]
for name, os_cache in (("os", True), ("process", False)):
    loader = Loader(path, batch_size=7, num_workers=1, os_cache=os_cache, drop_last=False,
                    order=OrderOption.RANDOM, seed=3)
    batches = [(images.numpy().copy(), labels.numpy().copy()) for images, labels in loader]
    np.savez(f"{out}/{name}.npz", images=np.concatenate([b[0] for b in batches]),
             labels=np.concatenate([b[1] for b in batches])[:, 0])
"""


def read_with_ffcv(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images and labels, by label, through both of FFCV's caches; in another process, since its
    Loader sets torch's number of threads."""
    command = [sys.executable, "-c", READ_WITH_FFCV, str(path), str(path.parent)]
    subprocess.run(command, check=True, timeout=200)
    result = {}
    for name in ("os", "process"):
        with np.load(path.parent / f"{name}.npz") as arrays:
            order = arrays["labels"].argsort()
            assert (order != np.arange(len(order))).any()
            result[name] = arrays["images"][order], arrays["labels"][order]
    return result


@needs_ffcv
@pytest.mark.slow
def test_ffcv_loads_raw_images(out):
    data = in_memory(25, 256, 260)  # ten a page, and a rest
    write_beton(data, out, mode="raw", page_size=2 * MIB)
    for images, labels in read_with_ffcv(out).values():
        assert labels.tolist() == data.labels.tolist()
        np.testing.assert_array_equal(images, data.images.permute(0, 2, 3, 1).numpy())


@needs_ffcv
@pytest.mark.slow
def test_ffcv_loads_jpegs_kept_and_encoded(tmp_path, out):
    sources = [Image.fromarray(picture(i, 120, 160)) for i in range(8)]
    paths = [save(tmp_path, "0.jpg", sources[0], quality=95, subsampling="4:4:4"),
             save(tmp_path, "1.jpg", sources[1], quality=95, subsampling="4:2:2"),
             save(tmp_path, "2.jpg", sources[2], quality=95, progressive=True),
             save(tmp_path, "3.jpg", sources[3].convert("L"), quality=95),
             save(tmp_path, "4.jpg", sources[4].convert("CMYK"), quality=95),
             save(tmp_path, "5.png", sources[5]),
             save(tmp_path, "6.gif", sources[6].quantize(50)),
             save(tmp_path, "7.jpg", sources[7], quality=95)]  # fmt: skip
    manifest = write_beton(files(*paths), out)
    assert (manifest["kept"], manifest["jpg"]) == (5, 3)
    for images, labels in read_with_ffcv(out).values():
        assert labels.tolist() == list(range(10, 18))
        for path, content, image in zip(paths, stored(out), images, strict=True):
            expected = decoded(content).astype(int)
            expected = expected if expected.ndim == 3 else expected[..., None]  # grayscale
            assert np.abs(expected - image).mean() < 1.5  # FFCV takes libjpeg's fast DCT
            assert np.abs(pixels_of(path, "RGB").astype(int) - image).mean() < 6


# The layout


def test_images_and_labels_are_in_the_order_of_the_data(out):
    data = in_memory(20, 9, 13)
    write_beton(data, out, mode="raw", workers=2)
    result = read_beton(out)
    assert result.labels.tolist() == data.labels.tolist()
    assert set(result.images["mode"].tolist()) == {RAW}
    assert set(result.images["width"].tolist()) == {13}
    assert set(result.images["height"].tolist()) == {9}
    pixels = data.images.permute(0, 2, 3, 1)
    assert stored(out) == [image.numpy().tobytes() for image in pixels]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["raw", "jpg", "smart"])
def test_the_file_does_not_depend_on_the_number_of_workers(tmp_path, mode):
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 300, (60, 2)).tolist()
    paths = [
        save(tmp_path, f"{i}.{'png' if i % 3 else 'jpg'}", Image.fromarray(picture(i, *size)))
        for i, size in enumerate(sizes)
    ]
    results = []
    for workers in (1, 3):
        path = tmp_path / f"{workers}.beton"
        manifest = write_beton(files(*paths), path, mode=mode, workers=workers, page_size=2 * MIB)
        manifest.pop("date")
        results.append((path.read_bytes(), manifest))
    assert results[0] == results[1]


@pytest.mark.parametrize("workers", [1, 2])
def test_no_image_crosses_a_page(tmp_path, out, workers):
    generator = np.random.default_rng(0)
    sides = [*generator.integers(1, 500, (60, 2)).tolist(), [512, 1365], [1, 1], [700, 998]]
    paths = [
        save(tmp_path, f"{i}.bmp", Image.fromarray(picture(i, *side)))
        for i, side in enumerate(sides)
    ]
    write_beton(files(*paths), out, mode="raw", page_size=2 * MIB, workers=workers)
    data = read_beton(out)
    first, last = data.images["data_ptr"], data.images["data_ptr"] + data.sizes - 1
    assert (first // (2 * MIB) == last // (2 * MIB)).all()
    assert (np.sort(first)[1:] > np.sort(last)[:-1]).all()  # none over another
    assert len(np.unique(first // (2 * MIB))) > 5
    expected = [pixels_of(path).tobytes() for path in paths]
    assert stored(out) == expected


def test_an_image_that_fills_a_page(out):
    side = 2 * MIB // 3 // 2**6
    data = ImageArray(torch.zeros(3, 3, 2**6, side, dtype=torch.uint8), torch.zeros(3).long(), ())
    write_beton(data, out, mode="raw", page_size=2 * MIB)
    assert len(read_beton(out)) == 3


@pytest.mark.parametrize(("height", "hint"), [(837, 4), (1700, 8)])
def test_an_image_larger_than_a_page(tmp_path, out, height, hint):
    small = save(tmp_path, "small.png", Image.new("RGB", (8, 8)))
    large = save(tmp_path, "large.png", Image.new("RGB", (836, height)))
    message = rf"large\.png takes \d\.\d MiB \(836 x {height} pixels\), a page 2 MiB; give "
    with pytest.raises(ValueError, match=f"{message}--page_size {hint} .*--max_resolution"):
        write_beton(files(small, large), out, mode="raw", page_size=2 * MIB)
    assert list(out.parent.iterdir()) == []
    write_beton(files(small, large), out, mode="raw", page_size=hint * MIB)
    assert len(read_beton(out)) == 2


def test_an_image_in_memory_larger_than_a_page_is_named_by_its_number(out):
    data = ImageArray(torch.zeros(2, 3, 1000, 1000, dtype=torch.uint8), torch.zeros(2).long(), ())
    with pytest.raises(ValueError, match="image 0 takes"):
        write_beton(data, out, mode="raw", page_size=2 * MIB)


def test_sides_beyond_the_formats_16_bits(tmp_path, out):
    wide = save(tmp_path, "wide.png", Image.new("RGB", (65536, 1)))
    with pytest.raises(ValueError, match=r"wide\.png is 65536 x 1 pixels.*max_resolution"):
        write_beton(files(wide), out, mode="raw")
    with pytest.raises(ValueError, match=r"wide\.png is 65536 x 1 pixels.*65500"):
        write_beton(files(wide), out, mode="jpg")
    record, content, _ = write_one(wide, out, mode="raw", max_resolution=65535)
    assert (record["width"], record["height"], len(content)) == (65535, 1, 3 * 65535)


# What is stored


@pytest.mark.parametrize(
    "options",
    [{"quality": 70}, {"quality": 95, "subsampling": "4:4:4"}, {"progressive": True}, {}],
)
def test_a_jpeg_keeps_its_own_bytes(tmp_path, out, options):
    path = save(tmp_path, "x.jpg", Image.fromarray(picture(0, 50, 70)), **options)
    record, content, manifest = write_one(path, out, max_resolution=70)
    assert content == Path(path).read_bytes()
    assert record.tolist()[:3] == (JPG, 70, 50)
    assert (manifest["raw"], manifest["jpg"], manifest["kept"]) == (0, 0, 1)


def test_a_grayscale_jpeg_keeps_its_own_bytes(tmp_path, out):
    path = save(tmp_path, "x.jpg", Image.fromarray(picture(0, 50, 70)).convert("L"))
    record, content, _ = write_one(path, out)
    assert content == Path(path).read_bytes()
    assert record.tolist()[:3] == (JPG, 70, 50)


def test_a_jpeg_under_another_suffix_keeps_its_own_bytes(tmp_path, out):
    path = save(tmp_path, "x.png", Image.fromarray(picture(0, 50, 70)), format="JPEG")
    assert write_one(path, out)[1] == Path(path).read_bytes()


def test_quality_encodes_every_image_anew(tmp_path, out):
    source = Image.fromarray(picture(0, 50, 70))
    path = save(tmp_path, "x.jpg", source, quality=98, comment="a long story " * 50)
    _, content, manifest = write_one(path, out, quality=40)
    stream = io.BytesIO()
    Image.fromarray(pixels_of(path)).save(stream, "JPEG", quality=40)
    assert content == stream.getvalue()
    assert (manifest["jpg"], manifest["kept"]) == (1, 0)


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "tif", "gif"])
def test_other_files_are_encoded_with_quality_90(tmp_path, out, suffix):
    path = save(tmp_path, f"x.{suffix}", Image.fromarray(picture(0, 50, 70)))
    record, content, _ = write_one(path, out)
    stream = io.BytesIO()
    Image.fromarray(pixels_of(path, "RGB")).save(stream, "JPEG", quality=90)
    assert record.tolist()[:3] == (JPG, 70, 50)
    np.testing.assert_array_equal(decoded(content), decoded(stream.getvalue()))


def test_a_cmyk_jpeg_becomes_rgb(tmp_path, out):
    path = save(tmp_path, "x.jpg", Image.fromarray(picture(0, 50, 70)).convert("CMYK"), quality=98)
    for mode in ("jpg", "raw"):
        _, content, _ = write_one(path, out, mode=mode, overwrite=True)
        expected = pixels_of(path, "RGB").astype(int)
        if mode == "raw":
            assert content == expected.astype(np.uint8).tobytes()
        else:
            assert decoded(content).shape == (50, 70, 3)
            assert np.abs(decoded(content) - expected).mean() < 4


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path, out):
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    path = save(tmp_path, "x.png", Image.fromarray(deep))
    _, content, _ = write_one(path, out, mode="raw")
    pixels = np.frombuffer(content, np.uint8).reshape(8, 8, 3)
    assert np.abs(pixels - deep[..., None] / 257).max() <= 1


def test_raw_pixels_of_a_jpeg_are_pils(tmp_path, out):
    path = save(tmp_path, "x.jpg", Image.fromarray(picture(0, 50, 70)))
    record, content, manifest = write_one(path, out, mode="raw")
    assert content == pixels_of(path).tobytes()
    assert record.tolist()[:3] == (RAW, 70, 50)
    assert (manifest["raw"], manifest["kept"]) == (1, 0)


@pytest.mark.parametrize(
    ("size", "limit", "expected"),
    [
        ((200, 100), 50, (50, 25)),
        ((100, 200), 50, (25, 50)),
        ((300, 200), 101, (101, 67)),
        ((2000, 1), 10, (10, 1)),
        ((64, 48), 64, (64, 48)),
        ((64, 48), 500, (64, 48)),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_max_resolution_bounds_the_longer_side(tmp_path, out, size, limit, expected, suffix):
    path = save(tmp_path, f"x.{suffix}", Image.fromarray(picture(0, size[1], size[0])))
    record, content, _ = write_one(path, out, mode="raw", max_resolution=limit)
    assert (record["width"], record["height"]) == expected
    source = Image.fromarray(pixels_of(path))
    resized = source if size == expected else source.resize(expected, Image.Resampling.BICUBIC)
    assert content == np.asarray(resized).tobytes()


def test_resizing_is_antialiased(tmp_path, out):
    """A fine chequerboard becomes grey, and no moire."""
    board = np.indices((400, 400)).sum(0) % 2 * 255
    path = save(tmp_path, "x.png", Image.fromarray(board.astype(np.uint8)))
    _, content, _ = write_one(path, out, mode="raw", max_resolution=50)
    assert np.abs(np.frombuffer(content, np.uint8).astype(int) - 127).max() <= 3


def test_only_jpegs_that_are_too_large_lose_their_bytes(tmp_path, out):
    paths = [
        save(tmp_path, f"{width}.jpg", Image.fromarray(picture(0, 60, width)))
        for width in (99, 100, 101)
    ]
    manifest = write_beton(files(*paths), out, max_resolution=100)
    assert (manifest["kept"], manifest["jpg"]) == (2, 1)
    assert read_beton(out).images["width"].tolist() == [99, 100, 100]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("threshold", [None, 0.01, 1000.0])
def test_smart_chooses_by_what_a_jpeg_saves(tmp_path, out, suffix, threshold):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    rough = save(tmp_path, f"rough.{suffix}", Image.fromarray(noise))
    smooth = save(tmp_path, f"smooth.{suffix}", Image.fromarray(picture(0, 64, 64)))
    write_beton(files(rough, smooth), out, mode="smart", smart_threshold=threshold)
    modes = read_beton(out).images["mode"].tolist()
    assert modes == {None: [RAW, JPG], 0.01: [JPG, JPG], 1000.0: [RAW, RAW]}[threshold]
    for path, mode, content in zip([rough, smooth], modes, stored(out), strict=True):
        if mode == RAW:
            assert content == pixels_of(path).tobytes()
        elif suffix == "jpg":
            assert content == Path(path).read_bytes()


def test_smart_compares_at_the_threshold_itself():
    encoding = ImageEncoding("smart", smart_threshold=3.0)
    assert encoding.prefers_pixels(10, 10, 100)
    assert not encoding.prefers_pixels(10, 10, 99)


def test_a_smart_jpeg_whose_reencoding_would_be_smaller_stays_exact(tmp_path, out):
    """Its own bytes say pixels; those of quality 90, which are fewer, have no say."""
    path = save(tmp_path, "x.jpg", Image.fromarray(picture(0, 64, 64)), quality=100, subsampling=0)
    own = len(Path(path).read_bytes())
    threshold = 3 * 64 * 64 / own
    record, content, _ = write_one(path, out, mode="smart", smart_threshold=threshold * 1.01)
    assert record["mode"] == RAW
    assert content == pixels_of(path).tobytes()


def patched_frame(content: bytes, marker: int | None = None, sampling: int | None = None) -> bytes:
    """A baseline JPEG with another start-of-frame marker, or luma sampling factors."""
    start = content.index(b"\xff\xc0")
    changed = bytearray(content)
    if marker is not None:
        changed[start + 1] = marker
    if sampling is not None:
        changed[start + 11] = sampling
    return bytes(changed)


@pytest.mark.parametrize(
    ("changes", "plain"),
    [
        ({}, True),
        ({"marker": 0xC1}, True),
        ({"marker": 0xC2}, True),
        ({"marker": 0xC3}, False),
        ({"marker": 0xC9}, False),
        ({"marker": 0xCA}, False),
        ({"sampling": 0x41}, True),
        ({"sampling": 0x14}, True),
        ({"sampling": 0x31}, False),
        ({"sampling": 0x44}, False),
    ],
)
def test_which_jpegs_every_decoder_reads(changes, plain):
    stream = io.BytesIO()
    Image.fromarray(picture(0, 16, 16)).save(stream, "JPEG", comment=b"\xff\xc3 no frame")
    content = patched_frame(stream.getvalue(), **changes)
    with Image.open(io.BytesIO(content)) as image:
        assert is_plain_jpeg(image, content) is plain


# Broken files


def broken_files(tmp_path) -> tuple[list[str], list[str]]:
    """Five paths, of which three are broken, each in its own way."""
    whole = [save(tmp_path, f"{i}.jpg", Image.fromarray(picture(i, 60, 80))) for i in (0, 4)]
    cut = save(tmp_path, "1.jpg", Image.fromarray(picture(1, 60, 80)))
    Path(cut).write_bytes(Path(cut).read_bytes()[:-200])
    (tmp_path / "2.jpg").write_bytes(b"")
    missing = str(tmp_path / "3.png")
    return [whole[0], cut, str(tmp_path / "2.jpg"), missing, whole[1]], [cut]


@pytest.mark.parametrize("options", [{}, {"quality": 50}, {"mode": "raw"}, {"mode": "smart"}])
@pytest.mark.parametrize("workers", [1, 3])
def test_the_first_broken_image_is_named_and_nothing_is_left(tmp_path, out, options, workers):
    paths, _ = broken_files(tmp_path)
    with pytest.raises(ValueError, match=r"/1\.jpg cannot be read.*truncated.*skip_broken"):
        write_beton(files(*paths), out, workers=workers, **options)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("mode", ["jpg", "raw", "smart"])
def test_broken_images_can_be_left_out_and_are_listed(tmp_path, out, mode):
    paths, _ = broken_files(tmp_path)
    manifest = write_beton(files(*paths), out, mode=mode, skip_broken=True)
    assert manifest["skipped"] == paths[1:4]
    assert manifest["count"] == 2
    data = read_beton(out)
    assert len(data) == 2
    assert data.labels.tolist() == [10, 14]
    content = out.read_bytes()
    assert len(content) - int.from_bytes(content[16:24], "little") == 2 * 24  # the table
    if mode == "jpg":
        assert stored(out) == [Path(paths[0]).read_bytes(), Path(paths[4]).read_bytes()]


@needs_ffcv
@pytest.mark.slow
def test_ffcv_loads_a_file_from_which_images_were_left_out(tmp_path, out):
    paths = [save(tmp_path, f"{i}.png", Image.fromarray(picture(i, 32, 32))) for i in range(9)]
    for i in (0, 4, 8):
        Path(paths[i]).write_bytes(b"nothing")
    write_beton(files(*paths), out, mode="raw", skip_broken=True)
    kept = [i for i in range(9) if i not in (0, 4, 8)]
    for images, labels in read_with_ffcv(out).values():
        assert labels.tolist() == [10 + i for i in kept]
        np.testing.assert_array_equal(images, [picture(i, 32, 32) for i in kept])


@pytest.mark.parametrize("where", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_cut_anywhere_is_found_out_at_an_eighth_of_its_size(tmp_path, where, progressive):
    image = Image.fromarray(picture(3, 400, 600))
    path = save(tmp_path, "x.jpg", image, progressive=progressive)
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: int(where * len(content))])
    with pytest.raises(ValueError, match=r"x\.jpg cannot be read"):
        encode_file(path, ImageEncoding())
    Path(path).write_bytes(content)
    assert encode_file(path, ImageEncoding()).content == content


def test_all_broken(tmp_path, out):
    (tmp_path / "0.jpg").write_bytes(b"?")
    with pytest.raises(ValueError, match=r"all 1 images are broken, .*0\.jpg first"):
        write_beton(files(str(tmp_path / "0.jpg")), out, skip_broken=True)
    assert list(out.parent.iterdir()) == []


def test_floating_point_pixels_are_refused_by_name(tmp_path, out):
    path = save(tmp_path, "x.tif", Image.fromarray(np.zeros((4, 4), np.float32)))
    with pytest.raises(ValueError, match=r"x\.tif holds floating-point pixels"):
        write_beton(files(path), out)


# The manifest


def test_the_manifest(tmp_path, out):
    jpeg = save(tmp_path, "0.jpg", Image.fromarray(picture(0, 60, 80)))
    png = save(tmp_path, "1.png", Image.fromarray(picture(1, 60, 80)))
    result = write_beton(files(jpeg, png), out, source={"data": "folder", "split": "train"})
    assert manifest_path(out) == out.parent / "train.beton.json"
    manifest = json.loads(manifest_path(out).read_text())
    assert manifest == result
    assert manifest["count"] == 2
    assert manifest["bytes"] == out.stat().st_size
    assert (manifest["raw"], manifest["jpg"], manifest["kept"]) == (0, 1, 1)
    assert manifest["classes"] == ["x", "y"]
    assert manifest["skipped"] == []
    assert manifest["sslortho"] == __version__
    assert manifest["settings"] == {
        "data": "folder", "split": "train", "mode": "jpg", "max_resolution": None,
        "quality": None, "smart_threshold": None, "page_size": 8 * MIB,
    }  # fmt: skip
    whole = hashlib.sha256()
    for path, label in ((jpeg, 10), (png, 11)):
        digest = hashlib.sha256(Path(path).read_bytes()).digest()
        whole.update(digest + label.to_bytes(8, "little"))
    assert manifest["source_sha256"] == whole.hexdigest()


def test_the_source_hash_tells_pixels_and_labels_apart_and_nothing_else(out):
    data = in_memory(5, 8, 8)

    def source_hash(data: ImageArray, **options) -> str:
        return write_beton(data, out, overwrite=True, **options)["source_sha256"]

    original = source_hash(data)
    assert source_hash(data, mode="raw", workers=1) == original
    assert source_hash(data.select(torch.tensor([1, 0, 2, 3, 4]))) != original
    assert source_hash(ImageArray(data.images, data.labels + 1, ())) != original
    changed = data.images.clone()
    changed[4, 2, 7, 7] ^= 1
    assert source_hash(ImageArray(changed, data.labels, ())) != original


# Whole or not at all


def test_an_existing_file_stays_unless_overwrite(out):
    write_beton(in_memory(2, 8, 8), out)
    before = out.read_bytes(), manifest_path(out).read_bytes()
    with pytest.raises(ValueError, match=r"train\.beton exists already"):
        write_beton(in_memory(3, 8, 8), out)
    assert (out.read_bytes(), manifest_path(out).read_bytes()) == before
    write_beton(in_memory(3, 8, 8), out, overwrite=True)
    assert len(read_beton(out)) == json.loads(manifest_path(out).read_text())["count"] == 3


def test_a_disk_that_is_full_at_the_end_leaves_what_was_there(out, monkeypatch):
    """Some file systems say it when the file is flushed to the disk."""
    write_beton(in_memory(2, 8, 8), out)
    before = out.read_bytes(), manifest_path(out).read_bytes()

    def refuse(file):
        raise OSError(errno.EDQUOT, "quota")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="quota"):
        write_beton(in_memory(3, 8, 8), out, overwrite=True)
    assert (out.read_bytes(), manifest_path(out).read_bytes()) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
@pytest.mark.parametrize("where", ["encode", "layout", "finish"])
def test_an_exception_leaves_what_was_there(out, monkeypatch, error, where):
    write_beton(in_memory(2, 8, 8), out)
    before = out.read_bytes(), manifest_path(out).read_bytes()
    threads = threading.active_count()
    calls = iter(range(100))

    def fail(*arguments):
        if where == "finish" or next(calls) == 7:
            raise error("stop")
        return original(*arguments)

    owner, name = {
        "encode": (writer, "encode_pixels"),
        "layout": (writer.BetonLayout, "add"),
        "finish": (writer.BetonLayout, "finish"),
    }[where]
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(error, match="stop"):
        write_beton(in_memory(20, 8, 8), out, overwrite=True, workers=2)
    assert (out.read_bytes(), manifest_path(out).read_bytes()) == before
    assert sorted(out.parent.iterdir()) == sorted([out, manifest_path(out)])
    assert threading.active_count() == threads


def test_a_failure_stops_the_work_soon(out, monkeypatch):
    """Neither is the whole data set encoded ahead of the writer, nor after it has failed."""
    encoded = []

    def encode(pixels, name, encoding):
        encoded.append(name)
        raise RuntimeError("stop")

    monkeypatch.setattr(writer, "encode_pixels", encode)
    with pytest.raises(RuntimeError, match="stop"):
        write_beton(in_memory(200, 4, 4), out, workers=2)
    assert len(encoded) <= 2 * writer.LOOK_AHEAD


def test_the_old_manifest_never_stands_beside_a_new_file(out, monkeypatch):
    write_beton(in_memory(2, 8, 8), out)

    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "write_manifest", fail)
    with pytest.raises(KeyboardInterrupt):
        write_beton(in_memory(3, 8, 8), out, overwrite=True)
    assert len(read_beton(out)) == 3
    assert not manifest_path(out).exists()


SLOW = """
import sys, time
from pathlib import Path
import torch
from sslortho.data import ImageArray
from sslortho.data.beton import writer
encode = writer.encode_pixels
def slowly(*arguments):
    time.sleep(0.02)
    return encode(*arguments)
writer.encode_pixels = slowly
data = ImageArray(torch.zeros(5000, 3, 200, 200, dtype=torch.uint8), torch.zeros(5000).long(), ())
writer.write_beton(data, Path(sys.argv[1]), mode="raw", workers=2)
"""


@pytest.mark.slow
def test_a_killed_write_leaves_no_file_that_loads_and_a_new_one_succeeds(out):
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(out)])
    deadline = time.monotonic() + 120
    while not any(partial.stat().st_size > 8 * MIB for partial in find_partials(out)):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (partial,) = out.parent.iterdir()
    with pytest.raises(ValueError, match="is not a beton"):
        read_beton(partial)
    with pytest.warns(
        UserWarning, match=rf"\.train\.beton\.{process.pid}-\w+\.partial .*remove it"
    ):
        write_beton(in_memory(3, 8, 8), out)
    assert len(read_beton(out)) == 3


def test_permissions_are_those_of_any_new_file(tmp_path, out):
    write_beton(in_memory(2, 8, 8), out)
    (tmp_path / "other").touch()
    assert out.stat().st_mode == (tmp_path / "other").stat().st_mode


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "png"}, "mode='png' is not one of raw, jpg, smart"),
        ({"max_resolution": 0}, "max_resolution=0 must be 1 or more"),
        ({"max_resolution": 16}, "max_resolution=16 has no effect on images of 16 x 8"),
        ({"quality": 0}, "quality=0 must be from 1 to 100"),
        ({"quality": 101}, "quality=101 must be from 1 to 100"),
        ({"quality": 90, "mode": "raw"}, "quality=90 has no effect on mode='raw'"),
        ({"smart_threshold": 4.0}, r"smart_threshold=4\.0 has no effect on mode='jpg'"),
        ({"smart_threshold": 0.0, "mode": "smart"}, r"smart_threshold=0\.0 must be above 0"),
        ({"smart_threshold": float("nan"), "mode": "smart"}, "smart_threshold=nan must be above 0"),
        ({"page_size": MIB}, "page_size=1048576 must be a power of two"),
        ({"page_size": 3 * MIB}, "page_size=3145728 must be a power of two"),
        ({"page_size": 2**32}, "page_size=4294967296 must be a power of two"),
        ({"workers": 0}, "workers=0 must be 1 or more"),
    ],
)
def test_options_out_of_range_or_without_effect(out, options, message):
    with pytest.raises(ValueError, match=message):
        write_beton(in_memory(2, 8, 16), out, **options)
    assert list(out.parent.iterdir()) == []


def test_nothing_to_write(out):
    with pytest.raises(ValueError, match="no images"):
        write_beton(files(), out)


def test_a_beton_is_no_source_of_another(out):
    none = np.zeros(0, np.int64)
    data = BetonImages(Path("B/train.beton"), none, none, torch.zeros(0).long(), ())
    with pytest.raises(ValueError, match=r"in a beton already, B/train\.beton"):
        write_beton(data, out)


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        write_beton(in_memory(2, 8, 8), tmp_path / "none" / "train.beton")


def test_jpegs_in_shards_keep_their_bytes_and_names_as_those_in_files(tmp_path, out, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images = [Image.fromarray(picture(i, 20, 30)) for i in range(4)]
    turned = Image.Exif()
    turned[0x112] = 6
    paths = [save(tmp_path, "0.jpg", images[0], quality=70), save(tmp_path, "1.png", images[1]),
             save(tmp_path, "2.jpg", images[2], exif=turned), save(tmp_path, "3.jpg", images[3])]  # fmt: skip
    Path(paths[3]).write_bytes(Path(paths[3]).read_bytes()[:-100])
    shard = tmp_path / "a.tar"
    with tarfile.open(shard, "w") as tar:
        for path in paths:
            tar.add(path, Path(path).name)
    data = load_shards([str(shard)])
    with pytest.raises(ValueError, match=r"a\.tar/3\.jpg cannot be read"):
        write_beton(data, out)
    manifest = write_beton(data, out, skip_broken=True)
    assert (manifest["kept"], manifest["jpg"], manifest["skipped"]) == (1, 2, ["a.tar/3.jpg"])
    same = tmp_path / "same.beton"
    from_files = replace(files(*paths), upright=True, labels=data.labels)
    told = write_beton(from_files, same, skip_broken=True)
    assert stored(out) == stored(same)
    assert stored(out)[0] == Path(paths[0]).read_bytes()
    assert manifest["source_sha256"] == told["source_sha256"]
    assert read_names(out, 3) == read_names(same, 3) == ["0.jpg", "1.png", "2.jpg"]


def test_a_carriage_return_in_a_name_is_no_end_of_a_line(tmp_path):
    names = ["a\rb.png", "c\r\nd.png", "e\x85f.png", "g\udcff.png"]
    write_names(tmp_path / "x.beton", names)
    assert read_names(tmp_path / "x.beton", 4) == ["a\rb.png", "c\r d.png", *names[2:]]
