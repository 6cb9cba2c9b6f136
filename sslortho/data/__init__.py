"""Image sets by name or from files, and the loaders that turn them into finished batches.

Names are imported when they are first used, so `sslortho.data.options` costs no import of torch.
"""

from typing import TYPE_CHECKING

from sslortho.lazy import import_on_use

if TYPE_CHECKING:
    from sslortho.data.batches import Batch, EpochOrder, EvaluationLoader, PageOrder, TrainLoader
    from sslortho.data.beton.images import BetonImages
    from sslortho.data.datasets import DATASETS, load_split
    from sslortho.data.ffcv import require_ffcv
    from sslortho.data.image_files import ImageFiles
    from sslortho.data.image_sets import ImageArray, ImageSet
    from sslortho.data.pixel_source import PixelSource
    from sslortho.data.prefetch import available_cores
    from sslortho.data.subsets import balanced_subset, hold_out, named_subset
    from sslortho.data.tensor_loader import TensorEvaluationLoader, TensorLoader
    from sslortho.data.view_loader import EvaluationViewLoader, Source, ViewLoader

_HOME = {
    **dict.fromkeys(
        ("Batch", "EpochOrder", "EvaluationLoader", "PageOrder", "TrainLoader"),
        "sslortho.data.batches",
    ),
    **dict.fromkeys(
        ("DATASETS", "load_split"),
        "sslortho.data.datasets",
    ),
    "BetonImages": "sslortho.data.beton.images",
    "require_ffcv": "sslortho.data.ffcv",
    "ImageFiles": "sslortho.data.image_files",
    **dict.fromkeys(
        ("ImageArray", "ImageSet"),
        "sslortho.data.image_sets",
    ),
    "PixelSource": "sslortho.data.pixel_source",
    "available_cores": "sslortho.data.prefetch",
    **dict.fromkeys(
        ("balanced_subset", "hold_out", "named_subset"),
        "sslortho.data.subsets",
    ),
    **dict.fromkeys(
        ("TensorEvaluationLoader", "TensorLoader"),
        "sslortho.data.tensor_loader",
    ),
    **dict.fromkeys(
        ("EvaluationViewLoader", "Source", "ViewLoader"),
        "sslortho.data.view_loader",
    ),
}
"""Public name to the module that defines it."""

__all__ = [
    "DATASETS",
    "Batch",
    "BetonImages",
    "EpochOrder",
    "EvaluationLoader",
    "EvaluationViewLoader",
    "ImageArray",
    "ImageFiles",
    "ImageSet",
    "PageOrder",
    "PixelSource",
    "Source",
    "TensorEvaluationLoader",
    "TensorLoader",
    "TrainLoader",
    "ViewLoader",
    "available_cores",
    "balanced_subset",
    "hold_out",
    "load_split",
    "named_subset",
    "require_ffcv",
]

__getattr__ = import_on_use(__name__, _HOME)
