"""A model's trainable parameters in groups for an optimizer, every one exactly once.

| parameter                                                     | orth="conv" | orth="all" | decay, LARS |
|---------------------------------------------------------------|-------------|------------|-------------|
| convolution weight (one matrix a group)                       | yes         | yes        | yes         |
| dense weight, and any other matrix with more than one row     | no          | yes        | yes         |
| embedding table; tensor whose first dimension is 1 (positions)| no          | no         | yes         |
| anything of a normalisation layer, any vector or scalar       | no          | no         | no          |

Chosen by the type of the module that owns the parameter and by its dimension, never by its name.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)

OrthChoice = Literal["conv", "all", "none"] | Callable[[nn.Module, str, Tensor], bool]


def owned_parameters(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """(owning module, full name, parameter) of each trainable parameter, shared ones once."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                yield module, f"{prefix}.{name}" if prefix else name, parameter


def is_exempt(module: nn.Module, parameter: Tensor) -> bool:
    """Whether a parameter takes neither decay nor LARS's ratio: norms, biases, scalars."""
    return parameter.ndim <= 1 or isinstance(module, NORMS)


def _is_orthonormalised(module: nn.Module, name: str, parameter: Tensor, orth: OrthChoice) -> bool:
    if is_exempt(module, parameter) or isinstance(module, EMBEDDINGS):
        return False
    if callable(orth):
        return bool(orth(module, name, parameter))
    if orth == "none":
        return False
    if isinstance(module, _ConvNd):
        return True
    return orth == "all" and parameter.shape[0] > 1


def param_groups(
    model: nn.Module,
    orth: OrthChoice = "all",
    *,
    lr: float | None = None,
    lr_biases: float | None = None,
    weight_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups for any optimizer of `sslortho.optim`, or any of torch's (this module's table).

    Args:
        model: frozen parameters are left out.
        orth: "conv" orthonormalises the gradients of convolutions alone (the paper's choice for
            Barlow Twins), "all" those of every matrix, "none" none; or a function of (owning
            module, full name, parameter) that says so for one matrix at a time.
        lr: rate of the weights, in the optimizer's unit; None leaves it to the optimizer.
        lr_biases: rate of biases and norms; None for `lr`.
        weight_decay: decay of the weights; None leaves it to the optimizer. Biases and norms get 0.

    Returns:
        Groups with "params", "names", "name" (of the group), "orth", "orth_components" and what was given.
        The last group, "biases and norms", has weight_decay 0 and trust_coefficient None.

    Raises:
        ValueError: `orth` is none of the above, or the model has nothing to train.
    """
    if not callable(orth) and orth not in ("conv", "all", "none"):
        raise ValueError(f"orth={orth!r} is not 'conv', 'all', 'none' or a function")
    groups: dict[tuple[str, int], dict[str, Any]] = {}
    for module, name, parameter in owned_parameters(model):
        components, kind = 1, "weights"
        if is_exempt(module, parameter):
            kind = "biases and norms"
        elif _is_orthonormalised(module, name, parameter, orth):
            kind = "orthonormalised weights"
            components = getattr(module, "groups", 1) if isinstance(module, _ConvNd) else 1
        if (kind, components) not in groups:
            suffix = f", {components} matrices each" if components > 1 else ""
            groups[kind, components] = {
                "params": [],
                "name": kind + suffix,
                "names": [],
                "orth": kind == "orthonormalised weights",
                "orth_components": components,
            }
        groups[kind, components]["params"].append(parameter)
        groups[kind, components]["names"].append(name)
    if not groups:
        raise ValueError(f"{type(model).__name__} has no trainable parameters")

    order = {"orthonormalised weights": 0, "weights": 1, "biases and norms": 2}
    for (kind, _), group in groups.items():
        exempt = kind == "biases and norms"
        rate = lr_biases if exempt and lr_biases is not None else lr
        if rate is not None:
            group["lr"] = rate
        if exempt:
            group.update(weight_decay=0.0, trust_coefficient=None)
        elif weight_decay is not None:
            group["weight_decay"] = weight_decay
    return [groups[key] for key in sorted(groups, key=lambda key: (order[key[0]], key[1]))]
