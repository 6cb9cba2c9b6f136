"""Data sets, and the loaders that turn them into finished batches."""

from sslortho.data.batches import Batch, EpochOrder, EvaluationLoader, TrainLoader
from sslortho.data.datasets import DATASETS, balanced_subset, load_split
from sslortho.data.file_loader import FileEvaluationLoader, FileLoader
from sslortho.data.image_sets import ImageArray, ImageFiles, ImageSet
from sslortho.data.tensor_loader import TensorEvaluationLoader, TensorLoader

__all__ = [
    "DATASETS",
    "Batch",
    "EpochOrder",
    "EvaluationLoader",
    "FileEvaluationLoader",
    "FileLoader",
    "ImageArray",
    "ImageFiles",
    "ImageSet",
    "TensorEvaluationLoader",
    "TensorLoader",
    "TrainLoader",
    "balanced_subset",
    "load_split",
]
