"""Backbones by name, heads, and batch norm that sees all ranks."""

from sslortho.models.backbones import BACKBONES, create_backbone, feature_dim
from sslortho.models.projector import Projector
from sslortho.models.sync_batch_norm import SyncBatchNorm, convert_sync_batch_norm

__all__ = [
    "BACKBONES",
    "Projector",
    "SyncBatchNorm",
    "convert_sync_batch_norm",
    "create_backbone",
    "feature_dim",
]
