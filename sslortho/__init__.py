"""Self-supervised learning around orthogonalised gradients (arXiv 2202.07052).

Names are imported when they are first used, so `import sslortho` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from sslortho.lazy import import_on_use
from sslortho.version import __version__

if TYPE_CHECKING:
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
    from sslortho.recipes.api import (
        EvaluationResult,
        Features,
        TrainingResult,
        extract_features,
        knn_eval,
        linear_eval,
        load_backbone,
        pretrain,
        supervised,
    )

_OPTIM = (
    "LARS", "OPTIMIZERS", "OrthAdam", "OrthAdamW", "OrthLARS", "OrthSGD", "create_optimizer",
    "describe_param_groups", "orthogonal", "orthonormalise_", "param_groups", "polar",
)  # fmt: skip
_API = (
    "EvaluationResult", "Features", "TrainingResult", "extract_features", "knn_eval", "linear_eval",
    "load_backbone", "pretrain", "supervised",
)  # fmt: skip
_HOME = {
    "BarlowTwinsLoss": "sslortho.losses",
    **dict.fromkeys(_OPTIM, "sslortho.optim"),
    **dict.fromkeys(_API, "sslortho.recipes.api"),
}
"""Public name to the module that defines it."""

_PACKAGES = ("losses", "optim")
"""Subpackages that need torch alone; reached as attributes without an import of their own."""

__all__ = [
    "LARS",
    "OPTIMIZERS",
    "BarlowTwinsLoss",
    "EvaluationResult",
    "Features",
    "OrthAdam",
    "OrthAdamW",
    "OrthLARS",
    "OrthSGD",
    "TrainingResult",
    "__version__",
    "create_optimizer",
    "describe_param_groups",
    "extract_features",
    "knn_eval",
    "linear_eval",
    "load_backbone",
    "orthogonal",
    "orthonormalise_",
    "param_groups",
    "polar",
    "pretrain",
    "supervised",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"sslortho.{name}")
    return import_on_use(__name__, _HOME)(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
