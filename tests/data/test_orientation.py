"""Photographs as people see them: EXIF's orientation in every format and every origin."""

import io

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from sslortho.data.decoding import check_image, read_pixels, read_size
from sslortho.data.image_folder import read_into_memory
from sslortho.data.loading import load_training_set
from sslortho.data.objects import load_object
from sslortho.data.options import DataOptions

FORMATS = ("jpg", "png", "webp", "tiff")


def save(path, orientation, seed=0):
    """A picture of 9 x 6 pixels with this orientation."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image.save(path, exif=exif, **({"lossless": True} if path.suffix == ".webp" else {}))
    return str(path)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("orientation", range(11))
def test_pixels_and_sizes_are_those_of_pillow_turned(tmp_path, kind, orientation):
    path = save(tmp_path / f"x.{kind}", orientation)
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(read_pixels(path, upright=True), expected)
    assert read_size(path, upright=True) == expected.shape[1::-1]
    assert check_image(path, upright=True) == expected.shape[1::-1]


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", [3, 6, 9])
@pytest.mark.parametrize("form", ['<x tiff:Orientation="{}"/>', "<tiff:Orientation>{}</x>"])
def test_an_orientation_in_xmp_data_alone_counts_for_pixels_as_for_sizes(
    tmp_path, kind, orientation, form
):
    path = str(tmp_path / f"x.{kind}")
    with Image.open(save(tmp_path / f"plain.{kind}", 1)) as image:
        image.info.clear()
        image.save(path, xmp=form.format(orientation).encode(), lossless=True)
    with Image.open(path) as image:
        turned = ImageOps.exif_transpose(image)
        expected = np.array((image if kind == "png" else turned).convert("RGB"))
    np.testing.assert_array_equal(read_pixels(path, upright=True), expected)
    assert read_size(path, upright=True) == expected.shape[1::-1]


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_named_data_sets_stay_as_torchvision_reads_them(tmp_path, kind):
    path = save(tmp_path / f"x.{kind}", 6)
    with Image.open(path) as image:
        expected = np.array(image.convert("RGB"))
    np.testing.assert_array_equal(read_pixels(path), expected)
    assert read_size(path) == (9, 6)


@pytest.mark.filterwarnings("ignore:.*EXIF data")
def test_damaged_exif_data_do_not_spoil_the_pixels(tmp_path):
    path = tmp_path / "x.jpg"
    plain = save(tmp_path / "plain.jpg", 6)
    with Image.open(plain) as image:
        image.save(path, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
        expected = np.array(image.convert("RGB"))
    assert read_pixels(str(path), upright=True).shape == expected.shape


@pytest.mark.parametrize(
    ("data", "option", "turned"),
    [("path", None, True), ("path", False, False), ("folder", None, False), ("folder", True, True)],
)
def test_a_folder_by_its_path_is_upright_and_a_named_one_only_if_asked(
    tmp_path, data, option, turned
):
    (tmp_path / "train").mkdir()
    for i in range(3):
        save(tmp_path / "train" / f"{i}.png", 6, seed=i)
    images = load_training_set(
        DataOptions(data=data, data_dir=str(tmp_path), exif_orientation=option)
    )
    assert images.open(0).shape == ((9, 6, 3) if turned else (6, 9, 3))


def test_images_of_python_are_upright_unless_asked(tmp_path):
    path = save(tmp_path / "x.png", 8)
    content = io.BytesIO((tmp_path / "x.png").read_bytes())
    expected = read_pixels(path, upright=True)
    for data in ([path] * 2, [Image.open(content)] * 2):
        for option, shape in ((None, (9, 6, 3)), (False, (6, 9, 3))):
            options = DataOptions(data="given", exif_orientation=option)
            images = load_object(data, options, "train", needs_labels=False)
            assert images.open(1).shape == shape
            if option is None:
                np.testing.assert_array_equal(images.open(1), expected)


def test_turned_images_are_read_into_memory_turned(tmp_path):
    paths = [save(tmp_path / f"{i}.png", 6, seed=i) for i in range(2)]
    images = load_object(paths, DataOptions(data="given"), "train", needs_labels=False)
    assert images.in_memory
    assert read_into_memory(images).images.shape == (2, 3, 9, 6)
