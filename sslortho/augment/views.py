"""Specifications of views: numbers alone, without drawing or rendering."""

from dataclasses import dataclass
from typing import Protocol

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in luma: torchvision's `rgb_to_grayscale` (ITU-R BT.601)."""

Triple = tuple[float, float, float]
"""Numbers for red, green and blue."""


class View(Protocol):
    """Properties that views of every kind have."""

    @property
    def crop_size(self) -> int:
        """Side of the view in pixels."""
        ...

    @property
    def mean(self) -> Triple:
        """Mean of each channel, which the normalisation subtracts."""
        ...

    @property
    def std(self) -> Triple:
        """Standard deviation of each channel, which the normalisation divides by."""
        ...


def _check_std(std: Triple) -> None:
    if min(std) <= 0:
        raise ValueError(f"std={std} must be three positive numbers")


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """One random view of an image. The defaults are those of the first view of Barlow Twins."""

    crop_size: int = 224
    """Side of the view in pixels."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Range of the crop's share of the image's area."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the crop's width / height, drawn uniformly in its logarithm."""
    crop_padding: int | None = None
    """Pixels of black added on every side; then a square of `crop_size` pixels is cut out at random,
    without resizing, and crop_scale and crop_ratio have no effect. None: a random resized crop."""
    flip_p: float = 0.5
    """Probability of a horizontal flip."""
    jitter_p: float = 0.8
    """Probability of colour jitter: the next four operations in random order."""
    brightness: float = 0.4
    """Factor from U(1 - brightness, 1 + brightness)."""
    contrast: float = 0.4
    """Factor from U(1 - contrast, 1 + contrast)."""
    saturation: float = 0.2
    """Factor from U(1 - saturation, 1 + saturation)."""
    hue: float = 0.1
    """Shift from U(-hue, hue), in turns of the colour circle."""
    grayscale_p: float = 0.2
    """Probability of conversion to grey."""
    blur_p: float = 1.0
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's standard deviation in pixels."""
    blur_taps: int = 23
    """Length of the blur kernel in pixels."""
    solarise_p: float = 0.0
    """Probability of inverting values at or above `solarise_threshold`."""
    solarise_threshold: float = 128 / 255
    """Threshold for values from 0 to 1."""
    mean: Triple = IMAGENET_MEAN
    """Mean of each channel, subtracted at the end; for values from 0 to 1."""
    std: Triple = IMAGENET_STD
    """Standard deviation of each channel, which divides at the end; for values from 0 to 1."""

    def __post_init__(self) -> None:
        for name in ("flip_p", "jitter_p", "grayscale_p", "blur_p", "solarise_p"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be a probability, 0 to 1")
        if self.crop_size < 1:
            raise ValueError(f"crop_size={self.crop_size} must be 1 or more")
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale={self.crop_scale} must be two rising shares of 1")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise ValueError(f"crop_ratio={self.crop_ratio} must be two rising positive numbers")
        if self.crop_padding is not None and self.crop_padding < 0:
            raise ValueError(
                f"crop_padding={self.crop_padding} must be 0 or more pixels, or None for random "
                "resized crops"
            )
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be from 0 to 1")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue={self.hue} must be from 0 to 0.5")
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise ValueError(f"blur_sigma={self.blur_sigma} must be two rising positive numbers")
        if not 0 <= self.solarise_threshold <= 1:
            raise ValueError(
                f"solarise_threshold={self.solarise_threshold} must be from 0 to 1, not of 255"
            )
        _check_std(self.std)
        if self.blur_taps % 2 == 0 or self.blur_taps < 1:
            raise ValueError(f"blur_taps={self.blur_taps} must be an odd number")
        if self.blur_p and self.blur_taps // 2 >= self.crop_size:
            raise ValueError(
                f"blur_taps={self.blur_taps} is too long for crop_size={self.crop_size}: half of it "
                "is reflected at the edge; blur_p=0 switches the blur off"
            )


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec:
    """The one view of evaluation: shorter side resized to `resize`, then the central square cut out."""

    crop_size: int
    """Side of the view in pixels."""
    resize: int
    """Length of the shorter side before the crop, in pixels."""
    mean: Triple = IMAGENET_MEAN
    """Mean of each channel, subtracted; for values from 0 to 1."""
    std: Triple = IMAGENET_STD
    """Standard deviation of each channel, which divides; for values from 0 to 1."""

    def __post_init__(self) -> None:
        if not 1 <= self.crop_size <= self.resize:
            raise ValueError(
                f"crop_size={self.crop_size} must be from 1 to resize={self.resize}: the crop is "
                "cut out of the resized image"
            )
        _check_std(self.std)


def evaluation_spec(view: View, in_memory: bool) -> EvaluationSpec:
    """Return the evaluation view that belongs to a training view.

    Args:
        view: its crop size, mean and standard deviation are taken over.
        in_memory: True if the images are small, such as CIFAR's; then the whole image is used. False
            for photographs: the shorter side becomes 256 pixels for a crop of 224, in that ratio for
            other sizes.
    """
    size = view.crop_size
    resize = size if in_memory else round(size * 256 / 224)
    return EvaluationSpec(crop_size=size, resize=resize, mean=view.mean, std=view.std)
