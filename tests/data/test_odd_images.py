"""Image files that are unusual or broken: read as PIL and torchvision read them, or named."""

import contextlib
import io
import os
import warnings

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image
from torchvision.datasets.folder import pil_loader

from sslortho.augment import ViewRenderer, create_views
from sslortho.data import EpochOrder, PixelSource, ViewLoader
from sslortho.data.beton.file_format import read_beton
from sslortho.data.beton.manifest import read_names
from sslortho.data.beton.writer import write_beton
from sslortho.data.broken_images import handle_broken
from sslortho.data.decoding import read_pixels
from sslortho.data.image_folder import read_into_memory, scan_folder

NOISE = np.random.default_rng(0).integers(0, 256, (24, 40, 4), dtype=np.uint8)
SMOOTH = Image.fromarray(NOISE[..., :3]).resize((8, 6)).resize((64, 48), Image.Resampling.BICUBIC)


def encoded(image, kind, **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    return encoded(SMOOTH, "JPEG", exif=exif)


def without_adobe_marker(content):
    """Its APP14 segment says that CMYK is inverted; few writers but Adobe's and PIL write it."""
    start = content.index(b"\xff\xee")
    length = int.from_bytes(content[start + 2 : start + 4], "big")
    return content[:start] + content[start + 2 + length :]


def frames(kind):
    others = [SMOOTH.rotate(180), SMOOTH.rotate(90)]
    return encoded(SMOOTH, kind, save_all=True, append_images=others)


def oracle(path):
    """An image as torchvision's ImageFolder reads it, without PIL's advice on palettes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pil_loader(path)


AS_PIL = {
    "cmyk.jpg": encoded(SMOOTH.convert("CMYK"), "JPEG"),
    "cmyk_without_marker.jpg": without_adobe_marker(encoded(SMOOTH.convert("CMYK"), "JPEG")),
    "two_pictures.jpg": frames("MPO"),
    "gray.jpg": encoded(SMOOTH.convert("L"), "JPEG"),
    "progressive.jpg": encoded(SMOOTH, "JPEG", progressive=True),
    "exif_rotated.jpg": rotated(),
    "gray.png": encoded(SMOOTH.convert("L"), "PNG"),
    "bilevel.png": encoded(SMOOTH.convert("1"), "PNG"),
    "gray_alpha.png": encoded(SMOOTH.convert("LA"), "PNG"),
    "alpha.png": encoded(Image.fromarray(NOISE), "PNG"),
    "palette.png": encoded(SMOOTH.convert("P"), "PNG"),
    "transparent_palette.png": encoded(SMOOTH.convert("P"), "PNG", transparency=bytes(range(256))),
    "lossless.webp": encoded(Image.fromarray(NOISE), "WEBP", lossless=True),
    "lzw.tif": encoded(SMOOTH, "TIFF", compression="tiff_lzw"),
    "transparent_palette.gif": encoded(SMOOTH.convert("P"), "GIF", transparency=3),
    "animated.gif": frames("GIF"),
    "animated.png": frames("PNG"),
    "animated.webp": frames("WEBP"),
    "a_png.jpg": encoded(SMOOTH, "PNG"),
    "a_jpeg.png": encoded(SMOOTH, "JPEG"),
    "one_pixel.png": encoded(SMOOTH.resize((1, 1)), "PNG"),
    "one_pixel.jpg": encoded(SMOOTH.resize((1, 1)), "JPEG"),
    "wide.png": encoded(Image.new("RGB", (20_000, 50), "red"), "PNG"),
    "wide.jpg": encoded(Image.new("RGB", (20_000, 50), "red"), "JPEG"),
}


@pytest.mark.parametrize("name", AS_PIL)
def test_an_unusual_file_is_what_torchvision_makes_of_it(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(AS_PIL[name])
    expected = np.asarray(oracle(path))
    assert np.array_equal(read_pixels(str(path)), expected)


def test_16_bits_are_scaled_and_not_cut_off(tmp_path):
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)  # 257 * 255 = 65535
    Image.fromarray(values).save(tmp_path / "deep.png")
    pixels = read_pixels(str(tmp_path / "deep.png"))
    assert np.array_equal(pixels[..., 0], values // 257)
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
"""PIL would start Ghostscript to draw it."""

JPEG, PNG = encoded(SMOOTH, "JPEG"), encoded(Image.fromarray(NOISE), "PNG")
BROKEN = {
    "empty.jpg": b"",
    "empty.png": b"",
    "text.jpg": b"<html>404</html>",
    "zeros.png": bytes(1000),
    "header_alone.jpg": JPEG[:12],
    "cut.jpg": JPEG[: len(JPEG) // 2],
    "cut.png": PNG[: len(PNG) // 2],
    "postscript.jpg": POSTSCRIPT,
    "float.tif": encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(BROKEN[name])
    with pytest.raises(ValueError, match=name):
        read_pixels(str(path))


def folder_with(tmp_path, name, content):
    train = tmp_path / "train"
    train.mkdir()
    for i in range(7):
        SMOOTH.save(train / f"{i}.png")
    (train / name).write_bytes(content)
    return scan_folder(tmp_path, "train")


RENDERER = ViewRenderer(create_views("barlow_twins_small", 16), seed=0)


def load(files, workers):
    order = EpochOrder(len(files), len(files))
    loader = ViewLoader(PixelSource(files), RENDERER, order, torch.device("cpu"), workers)
    (batch,) = loader
    return batch.views


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", BROKEN)
def test_a_loader_raises_what_reading_raised_and_does_not_hang(tmp_path, name, workers):
    files = folder_with(tmp_path, name, BROKEN[name])
    with pytest.raises(ValueError, match=name):
        load(files, workers)


@pytest.fixture(scope="module")
def both_ways(tmp_path_factory):
    """The unusual files, and PNGs of what torchvision makes of them, in the same order."""
    folder = tmp_path_factory.mktemp("odd")
    for i, content in enumerate(AS_PIL.values()):
        for kind in ("odd", "plain"):
            (folder / kind / "train").mkdir(parents=True, exist_ok=True)
        odd = folder / "odd" / "train" / f"{i:02}.jpg"  # the content counts, not the name
        odd.write_bytes(content)
        oracle(odd).save(folder / "plain" / "train" / f"{i:02}.png")
    return tuple(scan_folder(folder / kind, "train") for kind in ("odd", "plain"))


def check_headers(files):
    """Sizes of the images, checked as before a training."""
    return handle_broken(files, "train")[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_makes_the_same_views_of_unusual_files_as_of_plain_ones(both_ways, workers):
    odd, plain = both_ways
    for views, expected in zip(load(odd, workers), load(plain, 0), strict=True):
        assert torch.equal(views, expected)
    assert check_headers(odd) == check_headers(plain)


def test_a_beton_of_unusual_files_holds_torchvisions_pixels(both_ways, tmp_path):
    odd, plain = both_ways
    write_beton(odd, tmp_path / "train.beton", mode="raw")
    content, data = (tmp_path / "train.beton").read_bytes(), read_beton(tmp_path / "train.beton")
    for path, record, size in zip(plain.paths, data.images, data.sizes, strict=True):
        start = int(record["data_ptr"])
        assert content[start : start + int(size)] == oracle(path).tobytes()


def test_unusual_files_in_memory(both_ways):
    odd, plain = both_ways
    sizes = check_headers(odd)
    alike = torch.tensor([i for i, size in enumerate(sizes) if size == SMOOTH.size])
    assert len(alike) > 10
    ours, expected = (read_into_memory(files.select(alike)).images for files in (odd, plain))
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named_by_all_that_read_a_data_set_first(tmp_path, name):
    files = folder_with(tmp_path, name, BROKEN[name])
    with pytest.raises(ValueError, match=name):
        read_into_memory(files)
    with pytest.raises(ValueError, match=f"{name}.*skip_broken"):
        write_beton(files, tmp_path / "train.beton", workers=2)
    assert not (tmp_path / "train.beton").exists()


SOF0 = JPEG.index(b"\xff\xc0")
"""Where a JPEG says its kind, and four bytes on how many bits a value has."""


def changed(kind, bits):
    content = bytearray(JPEG)
    content[SOF0 + 1], content[SOF0 + 4] = kind, bits
    return bytes(content)


def damaged(number):
    generator = np.random.default_rng(number)
    content = bytearray([JPEG, PNG][number % 2])
    for place in generator.integers(2, len(content), 3):
        content[place] = generator.integers(256)
    return bytes(content[: generator.integers(len(content) // 2, 2 * len(content))])


RARE = {
    "lossless": changed(0xC3, 8),
    "arithmetic": changed(0xC9, 8),
    "of 12 bits": changed(0xC1, 12),
}


@pytest.mark.filterwarnings("ignore")  # PIL's, of what it passes over
def test_rare_and_damaged_files_are_what_torchvision_makes_of_them_or_named(tmp_path):
    path, read = tmp_path / "x.jpg", 0
    for name, content in [*RARE.items(), *((i, damaged(i)) for i in range(200))]:
        path.write_bytes(content)
        try:
            expected = np.asarray(oracle(path))
        except Exception:  # PIL raises a dozen kinds
            with pytest.raises(ValueError, match=r"x\.jpg cannot be read as an image"):
                read_pixels(str(path))
        else:
            read += 1
            assert np.array_equal(read_pixels(str(path)), expected), name
    assert 20 < read < 180  # both happen


def test_broken_headers_are_found_before_training(tmp_path):
    files = folder_with(tmp_path, "text.jpg", BROKEN["text.jpg"])
    with pytest.raises(ValueError, match=r"text\.jpg cannot be read as an image"):
        check_headers(files)
    with pytest.raises(ValueError, match=r"text\.jpg cannot be read as an image"):
        write_beton(files, tmp_path / "train.beton")
    assert not (tmp_path / "train.beton").exists()


def test_postscript_is_not_drawn(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: drawn.append(args))
    (tmp_path / "plain.jpg").write_bytes(POSTSCRIPT)
    with contextlib.suppress(Exception):
        pil_loader(tmp_path / "plain.jpg")
    assert len(drawn) == 1  # PIL would
    files = folder_with(tmp_path, "x.jpg", POSTSCRIPT)
    for read in (check_headers, read_into_memory, lambda files: load(files, 0)):
        with pytest.raises(ValueError, match=r"x\.jpg cannot be read .*cannot identify"):
            read(files)
    with pytest.raises(ValueError, match=r"x\.jpg cannot be read .*cannot identify"):
        write_beton(files, tmp_path / "train.beton", workers=1)
    assert len(drawn) == 1


def test_images_of_other_sizes_are_not_put_into_memory(tmp_path):
    files = folder_with(tmp_path, "one.png", AS_PIL["one_pixel.png"])
    with pytest.raises(ValueError, match="1 x 1 pixels"):
        read_into_memory(files)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_decompression_bombs_are_refused_before_they_are_decoded(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    path = tmp_path / f"bomb.{kind.lower()}"
    path.write_bytes(encoded(SMOOTH, kind))  # 3,072 pixels
    with pytest.raises(ValueError, match=r"bomb\.\w+ cannot be read .*decompression bomb"):
        read_pixels(str(path))
    files = folder_with(tmp_path, path.name, path.read_bytes()).select(torch.tensor([7]))
    for read in (check_headers, read_into_memory, lambda files: load(files, 2)):
        with pytest.raises(ValueError, match=r"bomb\.\w+ cannot be read .*decompression bomb"):
            read(files)
    with pytest.raises(ValueError, match=r"bomb\.\w+ cannot be read .*decompression bomb"):
        write_beton(files, tmp_path / "train.beton")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_large_images_are_warned_of(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    path = tmp_path / "large"
    path.write_bytes(encoded(SMOOTH, kind))
    with pytest.warns(Image.DecompressionBombWarning):
        pixels = read_pixels(str(path))
    assert np.array_equal(pixels, np.asarray(oracle(path)))


def test_what_is_no_file_is_named_and_not_waited_for(tmp_path):
    folder_with(tmp_path, "good.png", PNG)
    pipe = tmp_path / "train" / "pipe.jpg"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match=r"pipe\.jpg is not a regular file"):
        scan_folder(tmp_path, "train")
    (tmp_path / "train" / "a").mkdir()
    pipe.rename(tmp_path / "train" / "a" / "pipe.jpg")
    with pytest.raises(ValueError, match=r"a/pipe\.jpg is not a regular file"):
        scan_folder(tmp_path, "train")


def test_a_link_to_nowhere_is_named(tmp_path):
    folder_with(tmp_path, "good.png", PNG)
    (tmp_path / "train" / "gone.jpg").symlink_to("nothing.jpg")
    with pytest.raises(ValueError, match=r"gone\.jpg is a link to .*, which does not exist"):
        scan_folder(tmp_path, "train")


def test_a_folder_with_the_name_of_an_image_is_a_folder(tmp_path):
    (tmp_path / "train" / "cats.jpg").mkdir(parents=True)
    SMOOTH.save(tmp_path / "train" / "cats.jpg" / "0.png")
    files = scan_folder(tmp_path, "train")
    assert (files.classes, len(files)) == (("cats.jpg",), 1)


def test_a_folder_with_the_name_of_an_image_within_a_class(tmp_path):
    (tmp_path / "train" / "a" / "x.jpg").mkdir(parents=True)
    SMOOTH.save(tmp_path / "train" / "a" / "x.jpg" / "0.png")
    assert len(scan_folder(tmp_path, "train")) == 1


def test_a_name_that_is_no_text_is_read(tmp_path):
    (tmp_path / "train").mkdir()
    with open(os.fsencode(tmp_path / "train") + b"/\xff\xfe.png", "wb") as file:  # noqa: PTH123
        file.write(PNG)
    files = scan_folder(tmp_path, "train")
    assert read_pixels(files.paths[0]).shape == (24, 40, 3)
    assert len(load(files, 2)) == 2
    write_beton(files, tmp_path / "train.beton")
    assert os.fsencode(read_names(tmp_path / "train.beton", 1)[0]) == b"\xff\xfe.png"
