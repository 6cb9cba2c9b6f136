"""The photometry of a view as torchvision's functional operations, one image at a time."""

from torch import Tensor
from torchvision.transforms import functional as tv

from sslortho.augment import ViewSpec
from sslortho.augment.draws.photometric import (
    BRIGHTNESS,
    CONTRAST,
    HUE,
    SATURATION,
    PhotometricDraw,
)


def adjusted_by_torchvision(image: Tensor, draw: PhotometricDraw, i: int, spec: ViewSpec) -> Tensor:
    """The authors' sequence of operations, but for the normalisation, on values from 0 to 1.

    image: floating (3, h, w), of whatever precision. i: which of the draw's samples.
    """
    adjust = {
        BRIGHTNESS: (tv.adjust_brightness, draw.brightness),
        CONTRAST: (tv.adjust_contrast, draw.contrast),
        SATURATION: (tv.adjust_saturation, draw.saturation),
        HUE: (tv.adjust_hue, draw.hue),
    }
    if draw.jitter[i]:
        for code in draw.order[i]:
            operation, factors = adjust[int(code)]
            image = operation(image, float(factors[i]))
    if draw.grayscale[i]:
        image = tv.rgb_to_grayscale(image, num_output_channels=3)
    if draw.blur[i]:
        image = tv.gaussian_blur(image, [spec.blur_taps] * 2, [float(draw.sigma[i])] * 2)
    return tv.solarize(image, spec.solarise_threshold) if draw.solarise[i] else image
