"""Image files decoded to RGB."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sslortho.data import load_split
from sslortho.data.decoding import BrokenImageError, check_image, read_image, read_pixels


def pixels(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_grayscale_becomes_three_equal_channels(tmp_path):
    grey = pixels(0)[..., 0]
    Image.fromarray(grey).save(tmp_path / "x.png")
    result = np.asarray(read_image(str(tmp_path / "x.png")))
    np.testing.assert_array_equal(result, np.repeat(grey[..., None], 3, axis=2))


def test_one_bit_becomes_black_and_white(tmp_path):
    bits = pixels(0)[..., 0] > 128
    Image.fromarray(bits).save(tmp_path / "x.png")
    result = np.asarray(read_image(str(tmp_path / "x.png")))
    np.testing.assert_array_equal(result, np.repeat(255 * bits[..., None], 3, axis=2))


def test_alpha_is_dropped(tmp_path):
    rgba = np.concatenate([pixels(0), pixels(1)[..., :1]], axis=2)
    Image.fromarray(rgba).save(tmp_path / "x.png")
    np.testing.assert_array_equal(np.asarray(read_image(str(tmp_path / "x.png"))), rgba[..., :3])


@pytest.mark.parametrize("options", [{}, {"transparency": 0}, {"transparency": bytes(range(64))}])
def test_palette_becomes_its_colours(tmp_path, options):
    image = Image.frombytes("P", (8, 8), bytes(range(64)))
    image.putpalette(pixels(2).ravel().tolist())
    image.save(tmp_path / "x.png", **options)
    np.testing.assert_array_equal(np.asarray(read_image(str(tmp_path / "x.png"))), pixels(2))


def test_cmyk_becomes_rgb(tmp_path):
    cmyk = np.concatenate([255 - pixels(0), np.zeros((8, 8, 1), np.uint8)], axis=2)
    Image.frombytes("CMYK", (8, 8), cmyk.tobytes()).save(tmp_path / "x.tif")
    np.testing.assert_array_equal(np.asarray(read_image(str(tmp_path / "x.tif"))), pixels(0))


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path):
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(deep).save(tmp_path / "x.png")
    result = np.asarray(read_image(str(tmp_path / "x.png")))[..., 0]
    assert np.abs(result - deep / 257).max() <= 1


def test_a_folder_of_mixed_modes_is_read_as_rgb(tmp_path):
    grey = pixels(0)[..., 0]
    (tmp_path / "train").mkdir()
    Image.fromarray(pixels(1)).save(tmp_path / "train" / "0.png")
    Image.fromarray(grey).save(tmp_path / "train" / "1.png")
    data = load_split("folder", tmp_path, "train")
    assert data.images.shape == (2, 3, 8, 8)
    np.testing.assert_array_equal(data.images[1].numpy(), np.stack([grey] * 3))


# more than 8 bits


def tiff(values: np.ndarray, **tags: int) -> bytes:
    """A TIFF of one strip, by hand (TIFF 6.0): PIL writes few kinds."""
    order = ">" if values.dtype.byteorder == ">" else "<"
    content, (height, width) = values.tobytes(), values.shape[:2]
    numbers = {
        256: tags.get("width", width),
        257: height,
        258: tags.get("bits", 8 * values.dtype.itemsize),
        259: 1,  # not compressed
        262: tags.get("photometric", 1),
        273: 8,
        277: 1 if values.ndim == 2 else values.shape[2],
        278: height,
        279: len(content),
        339: tags.get("sample_format", 1),
    }
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + len(content))
    entries = [struct.pack(f"{order}HHII", tag, 4, 1, n) for tag, n in sorted(numbers.items())]
    return start + content + struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)


DEEP = np.random.default_rng(0).integers(0, 65536, (6, 8), dtype=np.uint16)
DEEP[0, :2] = 0, 65535


def read(path: Path, content: bytes | None = None) -> np.ndarray:
    if content is not None:
        path.write_bytes(content)
    pixels = read_pixels(str(path))
    assert np.array_equal(pixels, np.asarray(read_image(str(path))))
    return pixels


def scaled(values: np.ndarray, most: int) -> np.ndarray:
    """Three channels of 8 bits by exact arithmetic of integers: the nearest of value * 255 / most."""
    wide = values.astype(np.int64)
    return np.repeat(((2 * wide * 255 + most) // (2 * most)).astype(np.uint8)[..., None], 3, 2)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_grey_of_16_bits_written_by_opencv(tmp_path, suffix):
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / f"x.{suffix}"), DEEP)
    np.testing.assert_array_equal(read(tmp_path / f"x.{suffix}"), scaled(DEEP, 65535))


@pytest.mark.parametrize("suffix", ["png", "tif", "ppm"])
def test_colour_of_16_bits_is_within_one_of_its_scaled_value(tmp_path, suffix):
    cv2 = pytest.importorskip("cv2")
    colours = np.stack([DEEP, DEEP.T.reshape(6, 8), DEEP[::-1]], axis=2)
    cv2.imwrite(str(tmp_path / f"x.{suffix}"), colours[..., ::-1])  # blue first
    pixels = read(tmp_path / f"x.{suffix}")
    assert np.abs(pixels - colours / 257).max() <= 1
    assert pixels.max() == 255


@pytest.mark.parametrize("kind", ["<u2", ">u2", "<i4", "<u4"])
def test_integers_that_fit_in_16_bits_are_scaled_as_such(tmp_path, kind):
    values = DEEP.astype(kind)
    content = tiff(values, sample_format=2 if "i" in kind else 1)
    np.testing.assert_array_equal(read(tmp_path / "x.tif", content), scaled(DEEP, 65535))


@pytest.mark.parametrize("largest", [1023, 4095, 65535])
def test_a_pgm_is_scaled_by_the_largest_value_that_it_states(tmp_path, largest):
    values = DEEP.astype(np.int64) % (largest + 1)
    content = f"P5 8 6 {largest}\n".encode() + values.astype(">u2").tobytes()
    pixels = read(tmp_path / "x.pgm", content)
    assert np.abs(pixels.astype(int) - scaled(values, largest)).max() <= 1  # PIL rounds before us


def test_twelve_bits_are_scaled_by_their_own_largest_value(tmp_path):
    values = DEEP >> 4
    first, second = values.reshape(-1, 2).T.astype(np.int64)
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1)
    content = tiff(packed.astype(np.uint8).reshape(6, 12), width=8, bits=12)
    np.testing.assert_array_equal(read(tmp_path / "x.tif", content), scaled(values, 4095))


@pytest.mark.parametrize("kind", ["u1", "<u2"])
def test_a_tiff_whose_white_is_zero_is_inverted(tmp_path, kind):
    values = (DEEP >> 8).astype(kind) if kind == "u1" else DEEP
    most = 255 if kind == "u1" else 65535
    pixels = read(tmp_path / "x.tif", tiff(values, photometric=0))
    np.testing.assert_array_equal(pixels, 255 - scaled(values, most))


UNKNOWN = {
    "beyond 16 bits": tiff(DEEP.astype("<i4") * 3, sample_format=2),
    "one value beyond": tiff(np.array([[0, 65536]], "<i4"), sample_format=2),
    "unsigned beyond 31 bits": tiff(DEEP.astype("<u4") * 65537),
    "negative, 16 bits": tiff(DEEP.astype("<i2"), sample_format=2),
    "negative, 8 bits": tiff(DEEP.astype("i1"), sample_format=2),
    "32-bit floats": tiff(DEEP.astype("<f4"), sample_format=3),
    "PFM": b"Pf 8 6 -1.0\n" + DEEP.astype("<f4").tobytes(),
    "64-bit floats": tiff(DEEP.astype("<f8"), sample_format=3),
    "half floats": tiff((DEEP >> 1).astype("<f2"), sample_format=3),
    "floats in colour": tiff(np.ones((6, 8, 3), "<f4"), sample_format=3, photometric=2),
    "32 bits in colour": tiff(np.ones((6, 8, 3), "<u4"), photometric=2),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_pixels_of_unknown_range_are_refused_and_never_clipped(tmp_path, name):
    path = tmp_path / "x.tif"
    path.write_bytes(UNKNOWN[name])
    for refuse in (read_pixels, read_image, check_image):
        with pytest.raises(BrokenImageError, match=r"x\.tif .*convert it to 8 .*--skip_broken"):
            refuse(str(path))


def test_signed_bytes_that_are_not_negative_are_read(tmp_path):
    values = (DEEP >> 9).astype("i1")
    pixels = read(tmp_path / "x.tif", tiff(values, sample_format=2))
    np.testing.assert_array_equal(pixels[..., 0], values)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_other_modes_are_what_pil_makes_of_them(tmp_path, mode):
    """One colour: red, but for modes without colour."""
    Image.new("RGB", (8, 8), (255, 0, 0)).convert(mode if mode != "LAB" else "RGB").save(
        tmp_path / "x.tif"
    )
    if mode == "LAB":  # lightness 54, a 81, b 70: sRGB's red, for a white of D50
        red = np.tile(np.array([138, 81, 70], np.uint8), (8, 8, 1))
        (tmp_path / "x.tif").write_bytes(tiff(red, photometric=8))
    pixels = read(tmp_path / "x.tif").astype(int)
    grey = mode in ("L", "LA")
    wanted = pixels[0, 0, 0] if grey else np.array([255, 0, 0])
    assert np.abs(pixels - wanted).max() <= 6
    if grey:
        assert wanted == round(0.299 * 255)  # ITU-R BT.601
