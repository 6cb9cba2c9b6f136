"""Backbones by name, their weights, heads, and batch norm over all ranks."""

from sslortho.models.backbones import BACKBONES, create_backbone
from sslortho.models.export import export_backbone
from sslortho.models.heads import (
    Projector,
    initial_classifier,
    linear_classifier,
    write_classifier,
)
from sslortho.models.network_facts import feature_dim
from sslortho.models.sync_batch_norm import SyncBatchNorm, convert_sync_batch_norm
from sslortho.models.weights import (
    BackboneInfo,
    LoadReport,
    RestoredBackbone,
    WeightsFile,
    choose_architecture,
    load_backbone,
    read_weights,
    recognise,
    restore_backbone,
    restore_module,
    write_backbone,
)

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
    "restore_module",
    "write_backbone",
    "write_classifier",
]
