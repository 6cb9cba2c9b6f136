"""Files of weights, ours and others': read without running anything in them, loaded and checked."""

from sslortho.models.weights.architecture import choose_architecture
from sslortho.models.weights.file import (
    BackboneInfo,
    WeightsFile,
    pretraining_of,
    read_weights,
    write_backbone,
)
from sslortho.models.weights.own_module import restore_module
from sslortho.models.weights.recognition import recognise
from sslortho.models.weights.restore import (
    LoadReport,
    RestoredBackbone,
    load_backbone,
    restore_backbone,
)

__all__ = [
    "BackboneInfo",
    "LoadReport",
    "RestoredBackbone",
    "WeightsFile",
    "choose_architecture",
    "load_backbone",
    "pretraining_of",
    "read_weights",
    "recognise",
    "restore_backbone",
    "restore_module",
    "write_backbone",
]
