"""Augmentation: specifications, counter-based draws, and batched renderers."""

from sslortho.augment.renderer import EvaluationRenderer, ViewRenderer
from sslortho.augment.views import SUPERVISED_VIEWS, VIEWS, EvaluationSpec, ViewSpec

__all__ = [
    "SUPERVISED_VIEWS",
    "VIEWS",
    "EvaluationRenderer",
    "EvaluationSpec",
    "ViewRenderer",
    "ViewSpec",
]
