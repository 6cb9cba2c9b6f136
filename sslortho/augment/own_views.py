"""Views of one's own: callables from a PIL image to a tensor, with the global generators seeded."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from sslortho.augment.draws.random_numbers import counter_seeds
from sslortho.augment.views import Triple
from sslortho.generators import seeded_generators

Transform = Callable[[Image.Image], Tensor]

TRIAL_SIDE = 512
"""Side in pixels of the image that a callable is tried on: larger than usual views, which it may cut out."""

NOISE_MARGIN, LEVEL_MARGIN = 0.5, 0.01
"""Distance from [0, 1] at which the views of noise, and of black and white images, count as normalised.
Bicubic resizing of a float tensor exceeds [0, 1] at edges, by less than 0.45, and nowhere in a plain image."""


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


def _find_normalisation(transform: Any) -> tuple[Triple, Triple] | None:
    """Mean and deviation of a callable, or of the last part of it that has both; None if none has.

    Parts are those in `transforms`, as in torchvision's Compose, or in `transform`, as in lightly's views,
    and those of an nn.Sequential. A single number stands for three channels in a `Normalize` alone: in
    other classes, such as one that adds noise, it says something else.
    """
    mean, std = getattr(transform, "mean", None), getattr(transform, "std", None)
    if mean is not None and std is not None:
        sizes = {np.asarray(mean).size, np.asarray(std).size}
        if sizes == {3} or (sizes <= {1, 3} and type(transform).__name__ == "Normalize"):
            return _three_numbers(mean), _three_numbers(std)
    for part in reversed(_parts_of(transform)):
        found = _find_normalisation(part)
        if found is not None:
            return found
    return None


def _three_numbers(value: Any) -> Triple:
    first, second, third = np.broadcast_to(np.asarray(value, float).ravel(), 3)
    return float(first), float(second), float(third)


def _parts_of(transform: Any) -> list[Any]:
    if isinstance(transform, nn.Sequential):
        return list(transform)
    parts = getattr(transform, "transforms", None)
    if isinstance(parts, Iterable):
        return list(parts)
    part = getattr(transform, "transform", None)
    return [] if part is None else [part]


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

    Raises ValueError if the trial fails, or gives no float tensor (3, size, size); and for values that are
    normalised by a mean and a deviation that are not found, since images of evaluation need the same.
    """
    view = OwnView(transform, crop_size=1)
    noise = np.random.default_rng(0).integers(0, 256, (TRIAL_SIDE, TRIAL_SIDE, 3), np.uint8)
    found = _try_view(view, noise)
    _check_one_size(view, found.shape[1])
    normalisation = _find_normalisation(transform)
    if normalisation is None:
        _check_range(view.name, found, NOISE_MARGIN)
        for level in (0, 255):
            _check_range(view.name, _try_view(view, np.full_like(noise, level)), LEVEL_MARGIN)
        normalisation = OwnView.mean, OwnView.std
    return OwnView(transform, found.shape[1], *normalisation)


def _check_one_size(view: OwnView, side: int) -> None:
    """Raise ValueError for a view that keeps the size of the image; `side` is that of the first trial."""
    larger = np.zeros((TRIAL_SIDE + 88, TRIAL_SIDE + 88, 3), np.uint8)
    found = _try_view(view, larger).shape[1]
    if found != side:
        raise ValueError(
            f"views: {view.name} keeps the size of the image: it gives {side} pixels for one of {TRIAL_SIDE}, "
            f"and {found} for one of {TRIAL_SIDE + 88}; let it crop or resize to one size, such as "
            "torchvision.transforms.RandomResizedCrop(32)"
        )


def _try_view(view: OwnView, pixels: NDArray[np.uint8]) -> Tensor:
    try:
        with seeded_generators(0):
            found = view.transform(Image.fromarray(pixels))
    except Exception as error:  # a user's callable may raise anything
        words = " ".join(str(error).split())
        raise ValueError(
            f"views: {view.name} fails on a PIL image of {pixels.shape[1]} x {len(pixels)} pixels, RGB "
            f"({type(error).__name__}: {words})"
        ) from error
    return check_view(found, view.name)


def _check_range(name: str, view: Tensor, margin: float) -> None:
    """Raise ValueError for values that are more than `margin` outside [0, 1]."""
    least, most = float(view.min()), float(view.max())
    if least < -margin or most > 1 + margin:
        raise ValueError(
            f"views: {name} gives values from {least:.3g} to {most:.3g}, so it normalises, but its mean and "
            "std are not found, which evaluation needs; end it with a Normalize in a Compose, or give the "
            "callable attributes mean and std of three numbers each ((0, 0, 0) and (1, 1, 1) where "
            "evaluation is to have images from 0 to 1)"
        )


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
