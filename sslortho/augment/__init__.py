"""Augmentation: specifications, counter-based draws, and batched renderers."""

from sslortho.augment.renderer import EvaluationRenderer, ViewRenderer
from sslortho.augment.views import VIEWS, EvaluationSpec, ViewSpec

__all__ = ["VIEWS", "EvaluationRenderer", "EvaluationSpec", "ViewRenderer", "ViewSpec"]
