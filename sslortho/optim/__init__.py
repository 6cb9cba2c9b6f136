"""Optimizers on orthonormal gradients (arXiv 2202.07052). Needs torch alone.

`reference` shows the whole algorithm on one page; the rest is the fast form of it, and tests hold the
two together.
"""

from sslortho.optim.describe import describe_param_groups
from sslortho.optim.gradients import orthonormalise_
from sslortho.optim.grouping import param_groups
from sslortho.optim.lars import LARS
from sslortho.optim.muon import Muon
from sslortho.optim.polar_factor import polar
from sslortho.optim.registry import OPTIMIZERS, create_optimizer
from sslortho.optim.wrapped import OrthAdam, OrthAdamW, OrthLARS, OrthSGD, orthogonal

__all__ = [
    "LARS",
    "OPTIMIZERS",
    "Muon",
    "OrthAdam",
    "OrthAdamW",
    "OrthLARS",
    "OrthSGD",
    "create_optimizer",
    "describe_param_groups",
    "orthogonal",
    "orthonormalise_",
    "param_groups",
    "polar",
]
