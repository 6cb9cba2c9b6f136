"""Self-supervised learning around orthogonalised gradients (arXiv 2202.07052)."""

from sslortho.losses import BarlowTwinsLoss
from sslortho.optim import (
    LARS,
    OPTIMIZERS,
    OrthAdam,
    OrthAdamW,
    OrthLARS,
    OrthSGD,
    create_optimizer,
    describe_param_groups,
    orthogonal,
    orthonormalise_,
    param_groups,
    polar,
)
from sslortho.version import __version__

__all__ = [
    "LARS",
    "OPTIMIZERS",
    "BarlowTwinsLoss",
    "OrthAdam",
    "OrthAdamW",
    "OrthLARS",
    "OrthSGD",
    "__version__",
    "create_optimizer",
    "describe_param_groups",
    "orthogonal",
    "orthonormalise_",
    "param_groups",
    "polar",
]
