"""What a view is: numbers alone. How it is drawn and rendered stands in the files beside this one."""

from dataclasses import dataclass, replace

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)

Triple = tuple[float, float, float]


def _check_std(std: Triple) -> None:
    if min(std) <= 0:
        raise ValueError(f"std={std} must be three positive numbers")


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """One random view of an image. The defaults are those of Barlow Twins' first view."""

    crop_size: int = 224
    """Side of the view in pixels."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Range of the crop's share of the image's area."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the crop's width / height, drawn uniformly in its logarithm."""
    crop_padding: int | None = None
    """Pixels of black added on every side, then a square of `crop_size` pixels is cut out at random,
    without resizing; crop_scale and crop_ratio have no effect. None: a random resized crop."""
    flip_p: float = 0.5
    """Probability of a horizontal flip."""
    jitter_p: float = 0.8
    """Probability of colour jitter: the next four in random order."""
    brightness: float = 0.4
    """Factor from U(1 - brightness, 1 + brightness)."""
    contrast: float = 0.4
    """Factor from U(1 - contrast, 1 + contrast)."""
    saturation: float = 0.2
    """Factor from U(1 - saturation, 1 + saturation)."""
    hue: float = 0.1
    """Shift from U(-hue, hue), in turns of the colour circle."""
    grayscale_p: float = 0.2
    """Probability of losing the colour."""
    blur_p: float = 1.0
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's standard deviation in pixels."""
    blur_taps: int = 23
    """Length of the blur kernel in pixels."""
    solarise_p: float = 0.0
    """Probability of inverting values at or above `solarise_threshold`."""
    solarise_threshold: float = 128 / 255
    """Of values from 0 to 1."""
    mean: Triple = IMAGENET_MEAN
    """Subtracted from each channel at the end, of values from 0 to 1."""
    std: Triple = IMAGENET_STD
    """Divides each channel at the end."""

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
    """The one view of evaluation: shorter side to `resize`, then the central square."""

    crop_size: int
    """Side of the view in pixels."""
    resize: int
    """Length of the shorter side before the crop, in pixels."""
    mean: Triple = IMAGENET_MEAN
    """Subtracted from each channel, of values from 0 to 1."""
    std: Triple = IMAGENET_STD
    """Divides each channel."""

    def __post_init__(self) -> None:
        if not 1 <= self.crop_size <= self.resize:
            raise ValueError(
                f"crop_size={self.crop_size} must be from 1 to resize={self.resize}: the crop is "
                "cut out of the resized image"
            )
        _check_std(self.std)


def barlow_twins(crop_size: int = 224) -> tuple[ViewSpec, ViewSpec]:
    """The pair of arXiv 2103.03230, appendix A: T and T' differ in blur and solarisation alone."""
    first = ViewSpec(crop_size=crop_size)
    return first, replace(first, blur_p=0.1, solarise_p=0.2)


def small(views: tuple[ViewSpec, ...], crop_size: int) -> tuple[ViewSpec, ...]:
    """Views of photographs for images of CIFAR's size: no blur, CIFAR-10's mean and deviation.

    The first is of `crop_size` pixels, the others in their ratio to it.
    """
    scale = crop_size / views[0].crop_size
    return tuple(
        replace(
            view,
            crop_size=round(view.crop_size * scale),
            blur_p=0.0,
            mean=CIFAR10_MEAN,
            std=CIFAR10_STD,
        )
        for view in views
    )


def for_digits(views: tuple[ViewSpec, ...]) -> tuple[ViewSpec, ...]:
    """Small views for handwriting: no flip (a mirrored 2 is no digit), and no tiny crops."""
    least = 0.4
    return tuple(
        replace(view, flip_p=0.0, crop_scale=(max(least, low), max(least, high)))
        for view in views
        for low, high in [view.crop_scale]
    )


def barlow_twins_small(crop_size: int = 32) -> tuple[ViewSpec, ...]:
    """The pair for 32-pixel images, as used for CIFAR: no blur, CIFAR-10's mean and deviation."""
    return small(barlow_twins(), crop_size)


def barlow_twins_digits(crop_size: int = 32) -> tuple[ViewSpec, ...]:
    """The small pair for handwriting: no flip (a mirrored 2 is no digit), and no tiny crops."""
    return for_digits(barlow_twins_small(crop_size))


def supervised(
    crop_size: int = 224, mean: Triple = IMAGENET_MEAN, std: Triple = IMAGENET_STD
) -> tuple[ViewSpec]:
    """Random crop and flip: what a classifier is trained on, in linear evaluation too.

    The numbers are those of torchvision's RandomResizedCrop, as in facebookresearch/barlowtwins,
    evaluate.py; crops are bicubic here, bilinear there.
    """
    view = ViewSpec(crop_size=crop_size, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
    return (replace(view, mean=mean, std=std),)


def supervised_small(
    crop_size: int = 32, mean: Triple = CIFAR10_MEAN, std: Triple = CIFAR10_STD
) -> tuple[ViewSpec]:
    """The view for 32-pixel images: black padding, a random crop without resizing, a flip.

    4 pixels of padding for 32, in that ratio for other sizes (arXiv 1512.03385, section 4.2).
    """
    (view,) = supervised(crop_size, mean, std)
    return (replace(view, crop_padding=crop_size // 8),)


def supervised_digits(
    crop_size: int = 32, mean: Triple = CIFAR10_MEAN, std: Triple = CIFAR10_STD
) -> tuple[ViewSpec]:
    """`supervised` for handwriting: no flip, and no tiny crops."""
    (view,) = supervised(crop_size, mean, std)
    return (replace(view, flip_p=0.0, crop_scale=(0.4, 1.0)),)


def centre(
    crop_size: int = 224, mean: Triple = IMAGENET_MEAN, std: Triple = IMAGENET_STD
) -> tuple[ViewSpec]:
    """The largest square in the middle of an image, nothing random."""
    (view,) = supervised(crop_size, mean, std)
    return (replace(view, flip_p=0.0, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0)),)


VIEWS = {
    "barlow_twins": barlow_twins,
    "barlow_twins_small": barlow_twins_small,
    "barlow_twins_digits": barlow_twins_digits,
}
"""Pairs of views by name; each a function of the crop size."""

SUPERVISED_VIEWS = {
    "supervised": supervised,
    "supervised_small": supervised_small,
    "supervised_digits": supervised_digits,
    "centre": centre,
}
"""Single views by name; each a function of the crop size, and of mean and deviation."""


def evaluation_spec(view: ViewSpec, in_memory: bool) -> EvaluationSpec:
    """The evaluation view that goes with a training view.

    Args:
        view: its crop size, mean and standard deviation are taken over.
        in_memory: all images are small and of one size (then the whole image is used), or they are
            photographs (shorter side to 256 for 224, and in that ratio).
    """
    size = view.crop_size
    resize = size if in_memory else round(size * 256 / 224)
    return EvaluationSpec(crop_size=size, resize=resize, mean=view.mean, std=view.std)
