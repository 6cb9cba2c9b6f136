"""Image files that are unusual or broken: read as PIL and torchvision read them, or named."""

import io
import os
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets.folder import pil_loader

from sslortho.augment import VIEWS, ViewRenderer
from sslortho.data import EpochOrder, FileSource, ViewLoader
from sslortho.data.beton_writer import write_beton
from sslortho.data.image_folder import check_headers, read_into_memory, read_pixels, scan_folder

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


def frames(kind):
    others = [SMOOTH.rotate(180), SMOOTH.rotate(90)]
    return encoded(SMOOTH, kind, save_all=True, append_images=others)


AS_PIL = {
    "cmyk.jpg": encoded(SMOOTH.convert("CMYK"), "JPEG"),
    "gray.jpg": encoded(SMOOTH.convert("L"), "JPEG"),
    "progressive.jpg": encoded(SMOOTH, "JPEG", progressive=True),
    "exif_rotated.jpg": rotated(),
    "gray.png": encoded(SMOOTH.convert("L"), "PNG"),
    "bilevel.png": encoded(SMOOTH.convert("1"), "PNG"),
    "gray_alpha.png": encoded(SMOOTH.convert("LA"), "PNG"),
    "alpha.png": encoded(Image.fromarray(NOISE), "PNG"),
    "palette.png": encoded(SMOOTH.convert("P"), "PNG"),
    "transparent_palette.gif": encoded(SMOOTH.convert("P"), "GIF", transparency=3),
    "animated.gif": frames("GIF"),
    "animated.png": frames("PNG"),
    "animated.webp": frames("WEBP"),
    "a_png.jpg": encoded(SMOOTH, "PNG"),
    "a_jpeg.png": encoded(SMOOTH, "JPEG"),
    "one_pixel.png": encoded(SMOOTH.resize((1, 1)), "PNG"),
    "one_pixel.jpg": encoded(SMOOTH.resize((1, 1)), "JPEG"),
    "wide.png": encoded(Image.new("RGB", (20_000, 3), "red"), "PNG"),
    "wide.jpg": encoded(Image.new("RGB", (20_000, 3), "red"), "JPEG"),
}


@pytest.mark.parametrize("name", AS_PIL)
def test_an_unusual_file_is_what_torchvision_makes_of_it(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(AS_PIL[name])
    expected = np.asarray(pil_loader(path))
    assert np.array_equal(read_pixels(str(path)), expected)


def test_16_bits_are_scaled_and_not_cut_off(tmp_path):
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)  # 257 * 255 = 65535
    Image.fromarray(values).save(tmp_path / "deep.png")
    pixels = read_pixels(str(tmp_path / "deep.png"))
    assert np.array_equal(pixels[..., 0], values // 257)
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


JPEG, PNG = encoded(SMOOTH, "JPEG"), encoded(Image.fromarray(NOISE), "PNG")
BROKEN = {
    "empty.jpg": b"",
    "empty.png": b"",
    "text.jpg": b"<html>404</html>",
    "zeros.png": bytes(1000),
    "header_alone.jpg": JPEG[:12],
    "cut.jpg": JPEG[: len(JPEG) // 2],
    "cut.png": PNG[: len(PNG) // 2],
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


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["cut.jpg", "cut.png", "empty.png"])
def test_a_loader_raises_what_reading_raised_and_does_not_hang(tmp_path, name, workers):
    files = folder_with(tmp_path, name, BROKEN[name])
    order = EpochOrder(len(files), 4)
    renderer = ViewRenderer(VIEWS["barlow_twins_small"](16), seed=0)
    loader = ViewLoader(FileSource(files), renderer, order, torch.device("cpu"), workers)
    with pytest.raises(ValueError, match=name):
        list(loader)


def test_broken_headers_are_found_before_training(tmp_path):
    files = folder_with(tmp_path, "text.jpg", BROKEN["text.jpg"])
    with pytest.raises(ValueError, match=r"text\.jpg cannot be read as an image"):
        check_headers(files)
    with pytest.raises(ValueError, match=r"text\.jpg cannot be read as an image"):
        write_beton(files, tmp_path / "train.beton")
    assert not (tmp_path / "train.beton").exists()


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
    with pytest.raises(ValueError, match=r"bomb\.\w+ cannot be read .*decompression bomb"):
        check_headers(scan_folder(_beside(path), "train"))


def _beside(path):
    train = path.parent / "data" / "train"
    train.mkdir(parents=True)
    path.rename(train / path.name)
    return train.parent


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_large_images_are_warned_of(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    path = tmp_path / "large"
    path.write_bytes(encoded(SMOOTH, kind))
    with pytest.warns(Image.DecompressionBombWarning):
        pixels = read_pixels(str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.array_equal(pixels, np.asarray(pil_loader(path)))


def test_what_is_no_file_is_named_and_not_waited_for(tmp_path):
    folder_with(tmp_path, "good.png", PNG)
    os.mkfifo(tmp_path / "train" / "pipe.jpg")
    with pytest.raises(ValueError, match=r"pipe\.jpg is no regular file"):
        scan_folder(tmp_path, "train")


def test_a_folder_with_the_name_of_an_image_is_a_folder(tmp_path):
    (tmp_path / "train" / "cats.jpg").mkdir(parents=True)
    SMOOTH.save(tmp_path / "train" / "cats.jpg" / "0.png")
    files = scan_folder(tmp_path, "train")
    assert (files.classes, len(files)) == (("cats.jpg",), 1)


def test_a_name_that_is_no_text_is_read(tmp_path):
    (tmp_path / "train").mkdir()
    with open(os.fsencode(tmp_path / "train") + b"/\xff\xfe.png", "wb") as file:  # noqa: PTH123
        file.write(PNG)
    (path,) = scan_folder(tmp_path, "train").paths
    assert read_pixels(path).shape == (24, 40, 3)
