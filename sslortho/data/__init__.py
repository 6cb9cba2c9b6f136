"""Image sets by name or from files, and the loaders that turn them into finished batches."""

from sslortho.data.batches import Batch, EpochOrder, EvaluationLoader, PageOrder, TrainLoader
from sslortho.data.datasets import DATASETS, load_split
from sslortho.data.ffcv import BetonImages, require_ffcv
from sslortho.data.image_sets import ImageArray, ImageFiles, ImageSet
from sslortho.data.pixel_source import PixelSource
from sslortho.data.prefetch import available_cores
from sslortho.data.subsets import balanced_subset, hold_out, named_subset
from sslortho.data.tensor_loader import TensorEvaluationLoader, TensorLoader
from sslortho.data.view_loader import EvaluationViewLoader, Source, ViewLoader

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
