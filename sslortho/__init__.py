"""Self-supervised learning around orthonormalised gradients (arXiv 2202.07052).

`pretrain`, `supervised`, `linear_eval`, `knn_eval`, `extract_features` and `load_backbone` are the commands as
functions. `find_neighbours`, `find_duplicates` and `map_features` use what `load_features` reads, and
`map_training` maps features while they form. `OrthSGD`, `OrthAdam`, `OrthAdamW`, `OrthLARS`, `Muon` and `LARS`
are the optimizers, `param_groups` their groups. Names are imported when they are first used, so
`import sslortho` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from sslortho.lazy import import_on_use
from sslortho.version import __version__

if TYPE_CHECKING:
    from sslortho.data.preprocessing import Preprocessing
    from sslortho.evaluate.feature_files import load_features
    from sslortho.evaluate.raw_images import Backbone
    from sslortho.losses import (
        BarlowTwinsLoss,
        EMPSSLLoss,
        LeJEPALoss,
        NTXentLoss,
        SIGReg,
        VICRegLoss,
    )
    from sslortho.optim import (
        LARS,
        OPTIMIZERS,
        Muon,
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
    from sslortho.recipes.duplicates import find_duplicates
    from sslortho.recipes.feature_map import map_features
    from sslortho.recipes.feature_strip import map_training
    from sslortho.recipes.neighbours import find_neighbours
    from sslortho.runs.status import RunStoppedError
    from sslortho.train.backward import NonFiniteError

_OPTIM = (
    "LARS", "OPTIMIZERS", "Muon", "OrthAdam", "OrthAdamW", "OrthLARS", "OrthSGD", "create_optimizer",
    "describe_param_groups", "orthogonal", "orthonormalise_", "param_groups", "polar",
)  # fmt: skip
_API = (
    "EvaluationResult", "Features", "TrainingResult", "extract_features", "knn_eval", "linear_eval",
    "load_backbone", "pretrain", "supervised",
)  # fmt: skip
_LOSSES = (
    "BarlowTwinsLoss", "EMPSSLLoss", "LeJEPALoss", "NTXentLoss", "SIGReg", "VICRegLoss",
)  # fmt: skip
_HOME = {
    "Backbone": "sslortho.evaluate.raw_images",
    "Preprocessing": "sslortho.data.preprocessing",
    "find_duplicates": "sslortho.recipes.duplicates",
    "find_neighbours": "sslortho.recipes.neighbours",
    "load_features": "sslortho.evaluate.feature_files",
    "map_features": "sslortho.recipes.feature_map",
    "map_training": "sslortho.recipes.feature_strip",
    **dict.fromkeys(_LOSSES, "sslortho.losses"),
    "NonFiniteError": "sslortho.train.backward",
    "RunStoppedError": "sslortho.runs.status",
    **dict.fromkeys(_OPTIM, "sslortho.optim"),
    **dict.fromkeys(_API, "sslortho.recipes.api"),
}
"""Public name to the module that defines it."""

_PACKAGES = ("losses", "optim")
"""Subpackages that need torch alone; reached as attributes without an import of their own."""

__all__ = [
    "LARS",
    "OPTIMIZERS",
    "Backbone",
    "BarlowTwinsLoss",
    "EMPSSLLoss",
    "EvaluationResult",
    "Features",
    "LeJEPALoss",
    "Muon",
    "NTXentLoss",
    "NonFiniteError",
    "OrthAdam",
    "OrthAdamW",
    "OrthLARS",
    "OrthSGD",
    "Preprocessing",
    "RunStoppedError",
    "SIGReg",
    "TrainingResult",
    "VICRegLoss",
    "__version__",
    "create_optimizer",
    "describe_param_groups",
    "extract_features",
    "find_duplicates",
    "find_neighbours",
    "knn_eval",
    "linear_eval",
    "load_backbone",
    "load_features",
    "map_features",
    "map_training",
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
    return sorted({*__all__, *_PACKAGES})
