"""Image files decoded to RGB."""

import numpy as np
import pytest
from PIL import Image

from sslortho.data import load_split
from sslortho.data.decoding import read_image


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
