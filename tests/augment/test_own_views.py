"""The normalisation of a callable view, which evaluation needs too: found, told to be missing, or none."""

import functools
import warnings

import pytest
import torch
from torch import nn
from torchvision import transforms
from torchvision.transforms import v2

from sslortho.augment.own_views import read_own_view
from sslortho.augment.views import IMAGENET_MEAN, IMAGENET_STD

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # other people's, while they are imported
    from lightly.transforms.dino_transform import DINOTransform
    from lightly.transforms.simclr_transform import SimCLRTransform

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
NONE = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CROP = transforms.Compose([transforms.RandomResizedCrop(16), transforms.ToTensor()])
NORMALIZE = transforms.Normalize(MEAN, STD)


class AddNoise:
    """As many have it: its mean and deviation are those of noise."""

    mean, std = 0.0, 0.01

    def __call__(self, view):
        return (view + self.std * torch.randn_like(view)).clamp(0, 1)


class Grey:
    """The same normalisation in one line."""

    mean, std = torch.full((3,), 0.5), [0.25, 0.25, 0.25]

    def __call__(self, image):
        return (CROP(image) - 0.5) / 0.25


def inline(image):
    return (CROP(image) - 0.5) / 0.25


def wide(image):
    """In 0 to 1 but for what bicubic resizing of floats leaves beside edges."""
    view = v2.functional.pil_to_tensor(image).float() / 255
    return v2.functional.resize(view, [777, 777], v2.InterpolationMode.BICUBIC)


def standardised(image):
    """Each image is normalised by itself."""
    view = CROP(image)
    return (view - view.mean()) / (view.std() + 1e-6)


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (transforms.Compose([CROP, NORMALIZE]), (MEAN, STD)),
        (transforms.Compose([CROP, transforms.Compose([transforms.Compose([NORMALIZE])])]), (MEAN, STD)),
        (v2.Compose([CROP, v2.RandomApply([AddNoise()]), v2.Normalize(list(MEAN), STD)]), (MEAN, STD)),
        (nn.Sequential(v2.RandomCrop(16), v2.PILToTensor(), nn.Sequential(v2.ToDtype(torch.float32, scale=True),
                                                                      v2.Normalize(MEAN, STD))), (MEAN, STD)),
        (transforms.Compose([CROP, transforms.Normalize(0.5, 0.25)]), ((0.5,) * 3, (0.25,) * 3)),
        (transforms.Compose([CROP, transforms.Normalize((0.5,), (0.25,))]), ((0.5,) * 3, (0.25,) * 3)),
        (Grey(), ((0.5,) * 3, (0.25,) * 3)),
        (SimCLRTransform(input_size=16).transforms[0], (IMAGENET_MEAN, IMAGENET_STD)),
        (DINOTransform(global_crop_size=16).transforms[0], (IMAGENET_MEAN, IMAGENET_STD)),
        (SimCLRTransform(input_size=16, normalize=None).transforms[1], NONE),
        (CROP, NONE),
        (transforms.Compose([CROP, AddNoise()]), NONE),
        (lambda image: CROP(image), NONE),
        (transforms.Compose([transforms.ColorJitter(0.8, 0.8), transforms.RandomSolarize(128), CROP]), NONE),
        (wide, NONE),
    ],
)  # fmt: skip
def test_the_normalisation_is_found_however_deep_it_is(transform, expected):
    view = read_own_view(transform)
    assert (view.mean, view.std) == tuple(pytest.approx(numbers) for numbers in expected)


@pytest.mark.parametrize(
    "transform",
    [
        inline,
        lambda image: NORMALIZE(CROP(image)),
        lambda image: CROP(image) / 0.25,
        lambda image: CROP(image) * 255,
        standardised,
        functools.partial(inline),
        transforms.Compose([CROP, transforms.Lambda(lambda view: NORMALIZE(view))]),
    ],
)
def test_a_normalisation_that_is_not_found_is_an_error(transform):
    with pytest.raises(
        ValueError, match=r"gives values from -?\d.* to .*mean and std are not found"
    ):
        read_own_view(transform)


def test_attributes_of_a_function_are_its_normalisation():
    normalised = functools.partial(inline)
    normalised.mean, normalised.std = (0.5,) * 3, (0.25,) * 3  # pyright: ignore[reportAttributeAccessIssue]
    view = read_own_view(normalised)
    assert (view.mean, view.std) == ((0.5,) * 3, (0.25,) * 3)


def test_a_view_that_keeps_the_size_of_the_image_is_refused():
    keeps = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor()])
    with pytest.raises(ValueError, match=r"keeps the size of the image: it gives 512 pixels for"):
        read_own_view(keeps)
