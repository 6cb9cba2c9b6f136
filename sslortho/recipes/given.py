"""Objects that Python callers hand over, which no text can name; they travel beside the options.

The option that an object takes the place of has the value GIVEN.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sslortho.options import GIVEN, Options

if TYPE_CHECKING:
    from torch import nn

    from sslortho.augment.own_views import OwnView
    from sslortho.augment.views import ViewSpec
    from sslortho.data import ImageSet
    from sslortho.methods import Method


@dataclass(frozen=True)
class Given:
    """Objects that a Python caller has handed over; None where an option says it all."""

    train: "ImageSet | None" = None
    """Images to train on."""
    test: "ImageSet | None" = None
    """Images to test on."""
    backbone: "nn.Module | None" = None
    """Network from images (batch, 3, height, width) to features. It is copied, never trained itself."""
    projector: "nn.Module | Callable[[int], nn.Module] | None" = None
    """Projector of a method, or a function from the number of features to one."""
    method: "type[Method] | None" = None
    """Method of one's own."""
    views: "tuple[ViewSpec, ...] | tuple[OwnView, ...] | None" = None
    """Views of each image: specifications, or callables that have been tried."""

    @property
    def images(self) -> "tuple[ImageSet | None, ImageSet | None]":
        """Images to train and to test on."""
        return self.train, self.test


NOTHING = Given()
"""Nothing is handed over: a command line."""

FORMS: Mapping[str, str] = {
    "backbone": "pretrain(model=MODULE)",
    "backbone_from": "knn_eval(MODULE)",
    "projector": "pretrain(projector=MODULE)",
    "method": "pretrain(method=CLASS)",
    "views": "pretrain(views=[...])",
}
"""Option that an object can take the place of, and the call that hands one over."""


def check_given(options: Options, given: Given) -> None:
    """Raise ValueError for an option that says GIVEN where nothing is handed over."""
    for name, form in FORMS.items():
        field = "backbone" if name == "backbone_from" else name
        if getattr(options, name, None) == GIVEN and getattr(given, field) is None:
            raise ValueError(
                f"{name}={GIVEN!r} stands for an object that is handed over in Python, and none is; call "
                f"sslortho.{form}; a file or folder of this name is ./{GIVEN}"
            )
