"""Data sets, and the loaders that turn them into finished batches."""

from sslortho.data.batches import Batch, EpochOrder, EvaluationLoader, PageOrder, TrainLoader
from sslortho.data.datasets import DATASETS, balanced_subset, load_split
from sslortho.data.ffcv.extra import require_ffcv
from sslortho.data.file_source import FileSource
from sslortho.data.held_out import hold_out
from sslortho.data.image_sets import BetonImages, ImageArray, ImageFiles, ImageSet
from sslortho.data.named_subset import named_subset
from sslortho.data.prefetch import available_cores
from sslortho.data.tensor_loader import TensorEvaluationLoader, TensorLoader
from sslortho.data.view_loader import EvaluationViewLoader, Source, ViewLoader

__all__ = [
    "DATASETS",
    "Batch",
    "BetonImages",
    "EpochOrder",
    "EvaluationLoader",
    "EvaluationViewLoader",
    "FileSource",
    "ImageArray",
    "ImageFiles",
    "ImageSet",
    "PageOrder",
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
