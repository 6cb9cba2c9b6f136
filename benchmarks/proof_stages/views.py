"""Colour, blur and normalisation on the device, beside kornia's and torchvision's."""

import warnings
from typing import Any

from loading_bench.photometric import time_photometric
from sslortho.augment import create_views

from .context import Context


def measure(context: Context, views: str, size: int) -> dict[str, Any]:
    """Images a second of each renderer; see `time_photometric`.

    Args:
        context: of the proof.
        views: name of a pair of views.
        size: side in pixels.
    """
    first, second = create_views(views, 16 if context.small else size)
    sizes = {"batch_size": 4, "rounds": 1} if context.small else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(kornia|torch)\b.*")
        return {"images_per_second": time_photometric((first, second), context.device, **sizes)}
