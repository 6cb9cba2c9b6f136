"""Preprocessing of raw images, beside torchvision's and beside what evaluations see."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from sslortho.augment.views import IMAGENET_MEAN, IMAGENET_STD
from sslortho.data.preprocessing import Preprocessing, list_images, read_raw

MEAN, STD = (0.3, 0.5, 0.6), (0.2, 0.25, 0.3)


def photograph(height, width, seed=0):
    """Smooth colours with some noise, as a photograph has."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noise = generator.integers(-12, 13, (height, width, 3))
    return np.clip(np.asarray(image).astype(int) + noise, 0, 255).astype(np.uint8)


def torchvisions(pixels, resize, crop_size):
    """The published pipeline, literally, on PIL's image."""
    pipeline = v2.Compose(
        [
            v2.Resize(resize, InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(crop_size),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    return pipeline(Image.fromarray(pixels))


def levels(views):
    return (views * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 255


@pytest.mark.parametrize(
    ("size", "crop_size", "resize"),
    [((300, 400), 224, 256), ((500, 333), 96, 110), ((100, 260), 224, 256), ((97, 97), 32, 37)],
)
def test_pixels_are_those_of_torchvision(size, crop_size, resize):
    pixels = photograph(*size)
    found = Preprocessing(crop_size=crop_size, mean=MEAN, std=STD)(pixels)
    expected = torchvisions(pixels, resize, crop_size)
    assert found.shape == (3, crop_size, crop_size)
    assert found.dtype == torch.float32
    # PIL rounds to whole levels between the two directions too, which moves some by one or two
    difference = (levels(found) - levels(expected)).abs()
    assert difference.max() < 2.01
    assert difference.mean() < 0.3


def test_small_images_are_seen_whole_and_exactly():
    pixels = photograph(32, 32)
    found = Preprocessing(crop_size=32, mean=MEAN, std=STD)(pixels)
    expected = torch.from_numpy(pixels).permute(2, 0, 1) / 255 - torch.tensor(MEAN).view(3, 1, 1)
    torch.testing.assert_close(
        found, expected / torch.tensor(STD).view(3, 1, 1), rtol=1e-5, atol=1e-5
    )


def test_every_form_of_an_image_gives_the_same(tmp_path):
    pixels = photograph(120, 90)
    path = tmp_path / "x.png"
    Image.fromarray(pixels).save(path)
    preprocess = Preprocessing(crop_size=64, mean=MEAN, std=STD)
    expected = preprocess(pixels)
    forms = (path, str(path), Image.open(path), torch.from_numpy(pixels).permute(2, 0, 1))
    for form in forms:
        assert torch.equal(preprocess(form), expected)
    grey = pixels[..., 0]
    expected = preprocess(np.stack([grey] * 3, axis=2))
    for form in (grey, grey[..., None], torch.from_numpy(grey.copy()), Image.fromarray(grey)):
        assert torch.equal(preprocess(form), expected)


def test_photographs_are_turned_as_their_exif_says(tmp_path):
    pixels = photograph(64, 100)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn to the right by a quarter
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    preprocess = Preprocessing(crop_size=48, mean=MEAN, std=STD)
    expected = preprocess(np.rot90(pixels, -1))
    assert torch.equal(preprocess(tmp_path / "x.png"), expected)
    assert torch.equal(preprocess(Image.open(tmp_path / "x.png")), expected)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), "must be of uint8"),
        (torch.zeros(3, 8, 8), "goes into the model itself"),
        (np.zeros((8, 8, 4), np.uint8), r"shape \(8, 8, 4\) must be a path"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"shape \(2, 8, 8, 3\)"),
        (7, "image=int must be a path"),
        ("nowhere.png", "nowhere.png"),
    ],
)
def test_what_is_no_image_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(crop_size=8, mean=MEAN, std=STD)(image)


def test_a_guess_warns():
    preprocess = Preprocessing(crop_size=8, mean=IMAGENET_MEAN, std=IMAGENET_STD, guessed=True)
    with pytest.warns(UserWarning, match="do not say how they were pretrained; taken: 8 pixels"):
        preprocess(np.zeros((8, 8, 3), np.uint8))


def test_lists_of_images():
    image = np.zeros((8, 8, 3), np.uint8)
    assert len(list_images(np.zeros((5, 8, 8, 3), np.uint8))) == 5
    assert len(list_images([image, image])) == 2
    assert len(list_images(image)) == len(list_images("x.png")) == 1


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 3)])
@pytest.mark.parametrize("kind", [np.array, torch.from_numpy])
def test_pixels_are_a_copy_that_can_be_written(shape, kind):
    """numba compiles its kernels once more for arrays that cannot be."""
    values = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    channels = values.reshape(5, 6, -1)
    given = values if kind is np.array or values.ndim == 2 else channels.transpose(2, 0, 1)
    pixels = read_raw(kind(given))
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, np.broadcast_to(channels, (5, 6, 3)))
    pixels[:] = 0
    assert values.any()
