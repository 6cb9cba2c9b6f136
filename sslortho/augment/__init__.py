"""Augmentation: specifications of views, what is drawn for them, and three renderers of a draw.

Names are imported when they are first used, so specifications and `published_views` cost no import
of torch or numba.
"""

from typing import TYPE_CHECKING

from sslortho.lazy import import_on_use

if TYPE_CHECKING:
    from sslortho.augment.published_views import SUPERVISED_VIEWS, VIEW_NAMES, create_views
    from sslortho.augment.renderer import EvaluationRenderer, ViewRenderer
    from sslortho.augment.views import EvaluationSpec, ViewSpec

_HOME = {
    "SUPERVISED_VIEWS": "sslortho.augment.published_views",
    "VIEW_NAMES": "sslortho.augment.published_views",
    "EvaluationRenderer": "sslortho.augment.renderer",
    "EvaluationSpec": "sslortho.augment.views",
    "ViewRenderer": "sslortho.augment.renderer",
    "ViewSpec": "sslortho.augment.views",
    "create_views": "sslortho.augment.published_views",
}

__all__ = [
    "SUPERVISED_VIEWS",
    "VIEW_NAMES",
    "EvaluationRenderer",
    "EvaluationSpec",
    "ViewRenderer",
    "ViewSpec",
    "create_views",
]

__getattr__ = import_on_use(__name__, _HOME)
