"""Backbones by name, their weights, heads, and batch norm that sees all ranks."""

from sslortho.models.backbones import BACKBONES, create_backbone, feature_dim
from sslortho.models.classifier import (
    initial_classifier,
    linear_classifier,
    write_classifier,
)
from sslortho.models.export import export_backbone
from sslortho.models.projector import Projector
from sslortho.models.sync_batch_norm import SyncBatchNorm, convert_sync_batch_norm
from sslortho.models.weights.restore import (
    LoadReport,
    RestoredBackbone,
    choose_architecture,
    load_backbone,
    recognise,
    restore_backbone,
)
from sslortho.models.weights.file import BackboneInfo, WeightsFile, read_weights, write_backbone

__all__ = [
    "BACKBONES",
    "BackboneInfo",
    "LoadReport",
    "Projector",
    "RestoredBackbone",
    "SyncBatchNorm",
    "WeightsFile",
    "choose_architecture",
    "convert_sync_batch_norm",
    "create_backbone",
    "export_backbone",
    "feature_dim",
    "initial_classifier",
    "linear_classifier",
    "load_backbone",
    "read_weights",
    "recognise",
    "restore_backbone",
    "write_backbone",
    "write_classifier",
]
