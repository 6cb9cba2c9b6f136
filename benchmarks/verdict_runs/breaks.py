"""Breaks that are made on purpose: options, images, views or the method itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sslortho.augment.published_views import create_views
from sslortho.augment.views import ViewSpec
from sslortho.methods import Method
from sslortho.methods.registry import METHODS
from verdict_runs import methods

METHOD_NAMES = tuple(METHODS)


@dataclass(frozen=True)
class Break:
    """One way to spoil a run. The default spoils nothing."""

    rate: float = 1.0
    """Factor of both learning rates."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the method that are changed."""
    images: str | None = None
    """Name of a change of the images, see `images.CHANGES`."""
    still: bool = False
    """Whether both views are the image itself."""
    method: type[Method] | None = None
    """Method with a part taken out."""


HEALTHY = "healthy"

_ADAMW = {"optim": "adamw", "lr": 0.003, "lr_biases": 0.003}
"""The usual rate of AdamW (recipes/pretrain/rates.py)."""

COMMON: dict[str, Break] = {
    HEALTHY: Break(),
    "rate x 100": Break(rate=100),
    "rate / 1000": Break(rate=1e-3),
    "augmentations off": Break(still=True),
    "one image repeated": Break(images="one image repeated"),
    "eight images repeated": Break(images="eight images repeated"),
    "nearly constant images": Break(images="nearly constant images"),
    "healthy, AdamW": Break(options=_ADAMW),
    "rate x 100, AdamW": Break(options={**_ADAMW, "lr": 0.3, "lr_biases": 0.3}),
}
"""Ways for every method."""

OWN: dict[str, dict[str, Break]] = {
    "barlow_twins": {
        "lambda 0": Break(options={"lambda_param": 0.0}),
        "lambda x 200": Break(options={"lambda_param": 1.0}),
    },
    "vicreg": {
        "no variance term": Break(options={"variance": 0.0}),
    },
    "simclr": {
        "temperature 100": Break(options={"temperature": 100.0}),
        "temperature 0.001": Break(options={"temperature": 0.001}),
    },
    "moco_v2": {
        "temperature 100": Break(options={"temperature": 100.0}),
        "temperature 0.001": Break(options={"temperature": 0.001}),
    },
    "byol": {
        "no stop-gradient": Break(method=methods.BYOLWithoutStopGradient),
        "no predictor": Break(method=methods.BYOLWithoutPredictor),
    },
    "simsiam": {
        "no stop-gradient": Break(method=methods.SimSiamWithoutStopGradient),
        "no predictor": Break(method=methods.SimSiamWithoutPredictor),
    },
    "dino": {
        "no centring": Break(method=methods.DINOWithoutCentring),
        "no sharpening": Break(options={"teacher_temperature": 1.0}),
    },
    "lejepa": {
        "no SIGReg": Break(options={"lambda_param": 0.0}),
        "SIGReg alone": Break(options={"lambda_param": 1.0}),
    },
    "emp_ssl": {
        "no coding rate": Break(options={"coding_rate": 0.0}),
        "coding rate alone": Break(options={"similarity": 0.0}),
    },
}
"""Ways for one method."""


def breaks_of(method: str) -> dict[str, Break]:
    """Name of every way to spoil a run of this method to the way; `HEALTHY` spoils nothing."""
    return {**COMMON, **OWN[method]}


COUNTS = {"lejepa": 3, "emp_ssl": 4}
"""Views of methods that have more than two, as many as there is time for."""


def views_of(method: str, data: str, crop_size: int, still: bool) -> tuple[ViewSpec, ...]:
    """Views of a method, the first ones of those that have many; of DINO the two global ones alone."""
    name = f"{method}_{'digits' if data == 'digits' else 'small'}"
    views = create_views(name, crop_size)[: COUNTS.get(method, 2)]
    if not still:
        return views
    none = ViewSpec(
        crop_size=crop_size, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_p=0.0, jitter_p=0.0,
        grayscale_p=0.0, blur_p=0.0, mean=views[0].mean, std=views[0].std,
    )  # fmt: skip
    return (none,) * len(views)
