"""Recognition of solo-learn's checkpoints (vturrisi/solo-learn), for the padding of their CIFAR networks.

Its solo/methods/base.py pads the 3x3 first convolution by 2 for CIFAR; weights do not show a padding.
Its methods are Lightning modules with `backbone` (`encoder` in old versions) and `classifier`, and they
name the optimizer's parameter groups so, beside "projector", "predictor", ...
"""

from collections.abc import Iterator, Mapping
from typing import Any

from sslortho.models.weights.torch_file import read_plain

METHODS = frozenset({
    "all4one", "barlow_twins", "byol", "deepclusterv2", "dino", "mae", "mocov2plus", "mocov3", "nnbyol",
    "nnclr", "nnsiam", "ressl", "simclr", "simsiam", "supcon", "swav", "vibcreg", "vicreg", "wmse",
})  # fmt: skip
"""Names in its solo/methods/__init__.py."""

METHOD_GROUPS = frozenset({"projector", "predictor", "prototypes", "head", "decoder"})
"""Names of parameter groups that its methods add to "backbone" and "classifier"."""

CIFAR = frozenset({"cifar10", "cifar100"})
"""Data sets for which it changes the first layers."""


def _group_names(content: Mapping[str, Any]) -> Iterator[str]:
    for state in content.get("optimizer_states") or ():
        groups = state.get("param_groups") if isinstance(state, dict) else None
        for group in groups if isinstance(groups, list) else ():
            name = group.get("name") if isinstance(group, dict) else None
            if isinstance(name, str):
                yield name.removesuffix("_no_decay")


def _settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters of a Lightning checkpoint: those of `cfg` where they lie in it."""
    found = read_plain(content.get("hyper_parameters"))
    if not isinstance(found, dict):
        return {}
    inner = found.get("cfg")
    return inner if isinstance(inner, dict) else found


def _dataset(settings: Mapping[str, Any]) -> str | None:
    data = settings.get("data")
    name = data.get("dataset") if isinstance(data, dict) else settings.get("dataset")
    return name if isinstance(name, str) else None


def wrote(content: Any) -> bool:
    """Tell whether solo-learn's training for CIFAR wrote a checkpoint, as far as it says so itself.

    A module of Lightning with a `backbone` and a `classifier` is not enough: anybody's may have them.
    Either the hyperparameters name one of its methods and data sets, or the optimizer's groups have its names.

    Args:
        content: what `torch.load` gives, with stand-ins.
    """
    if not isinstance(content, dict) or "pytorch-lightning_version" not in content:
        return False
    state = content.get("state_dict")
    tops = {str(name).split(".")[0] for name in state} if isinstance(state, dict) else set()
    if "classifier" not in tops or tops.isdisjoint({"backbone", "encoder"}):
        return False
    settings = _settings(content)
    dataset = _dataset(settings)
    if dataset is not None and dataset not in CIFAR:
        return False
    groups = set(_group_names(content))
    named_groups = "classifier" in groups and not groups.isdisjoint({"backbone", "encoder"})
    return (settings.get("method") in METHODS and dataset is not None) or (
        named_groups and not groups.isdisjoint(METHOD_GROUPS)
    )
