"""Views of one's own: callables from a PIL image to a tensor, with the global generators seeded."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sslortho.augment.draws.random_numbers import counter_seeds
from sslortho.augment.views import Triple
from sslortho.generators import seeded_generators

Transform = Callable[[Image.Image], Tensor]

TRIAL_SIDE = 512
"""Side in pixels of the image that a callable is tried on: larger than usual views, which it may cut out."""


def text_of(thing: Any) -> str:
    """Text of an object, without places in memory: the same in every process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(thing))


@dataclass(frozen=True)
class OwnView:
    """One random view by a callable; it has no parameters that we know."""

    transform: Transform
    """From a PIL image (RGB) to a float tensor (3, crop_size, crop_size)."""
    crop_size: int
    """Side of the view in pixels."""
    mean: Triple = (0.0, 0.0, 0.0)
    """Mean of each channel that evaluation views subtract: that of the callable's own normalisation."""
    std: Triple = (1.0, 1.0, 1.0)
    """Standard deviation of each channel, likewise."""

    @property
    def name(self) -> str:
        """Name of the callable, or its text where it has a class of its own, as torchvision's have."""
        named = getattr(self.transform, "__qualname__", None)
        return f"{self.transform.__module__}.{named}" if named else text_of(self.transform)


def _find_normalisation(transform: Any) -> tuple[Triple, Triple]:
    """Mean and deviation of a `Normalize` in a composition, as torchvision has them; else 0 and 1."""
    for part in reversed(getattr(transform, "transforms", [transform])):
        mean, std = getattr(part, "mean", None), getattr(part, "std", None)
        if mean is None or std is None:
            continue
        if np.shape(mean) == np.shape(std) == (3,):
            red, green, blue = map(float, mean)
            std_red, std_green, std_blue = map(float, std)
            return (red, green, blue), (std_red, std_green, std_blue)
    return OwnView.mean, OwnView.std


def check_view(view: Any, name: str) -> Tensor:
    """A view as a callable gave it. Raises ValueError unless it is a float tensor (3, size, size)."""
    fits = isinstance(view, Tensor) and view.ndim == 3 and view.is_floating_point()
    if fits and len(view) == 3 and view.shape[1] == view.shape[2]:
        return view
    found = f"{tuple(view.shape)} of {view.dtype}" if isinstance(view, Tensor) else type(view)
    raise ValueError(
        f"views: {name} gives {found}; a float tensor (3, size, size) is needed, such as "
        "torchvision.transforms.ToTensor makes of a square crop"
    )


def read_own_view(transform: Transform) -> OwnView:
    """The view of a callable, whose size is found by a trial on one image of noise.

    Raises ValueError if the trial fails, or gives no float tensor (3, size, size).
    """
    view = OwnView(transform, crop_size=1)
    noise = np.random.default_rng(0).integers(0, 256, (TRIAL_SIDE, TRIAL_SIDE, 3), np.uint8)
    try:
        with seeded_generators(0):
            found = transform(Image.fromarray(noise))
    except Exception as error:  # a user's callable may raise anything
        words = " ".join(str(error).split())
        raise ValueError(
            f"views: {view.name} fails on a PIL image of {TRIAL_SIDE} x {TRIAL_SIDE} pixels, RGB "
            f"({type(error).__name__}: {words})"
        ) from error
    size = check_view(found, view.name).shape[1]
    return OwnView(transform, size, *_find_normalisation(transform))


@dataclass(frozen=True)
class OwnViewRenderer:
    """Views of one image after another; the generators are seeded by (seed, epoch, sample index, view)."""

    views: tuple[OwnView, ...]
    seed: int = 0

    def render(self, pixels: NDArray[np.uint8], index: int, epoch: int) -> list[Tensor]:
        """All views, float32 (3, crop_size, crop_size), of pixels (height, width, 3).

        Raises ValueError for a view of another shape than the others of its kind.
        """
        image = Image.fromarray(np.ascontiguousarray(pixels))
        rendered = []
        for number, view in enumerate(self.views):
            # the stream of the geometry of a view by specification
            (seed,) = counter_seeds(self.seed, epoch, np.array([index]), 2 * number)
            with seeded_generators(int(seed)):
                found = check_view(view.transform(image.copy()), view.name)
            if found.shape[1] != view.crop_size:
                raise ValueError(
                    f"views: {view.name} gives {found.shape[1]} pixels for image {index}, and "
                    f"{view.crop_size} for others; let it crop or resize to one size"
                )
            rendered.append(found.float())
        return rendered
