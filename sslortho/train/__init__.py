"""The training loop, its checkpoints, and what it tells."""

from sslortho.train.checkpoint import (
    CheckpointFolder,
    write_atomically,
)
from sslortho.train.ranks import RankLostError
from sslortho.train.fit import FitOptions, FitResult, NonFiniteError, fit
from sslortho.train.records import Reporter

__all__ = [
    "CheckpointFolder",
    "FitOptions",
    "FitResult",
    "NonFiniteError",
    "RankLostError",
    "Reporter",
    "fit",
    "write_atomically",
]
