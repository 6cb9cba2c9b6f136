"""A model's trainable parameters in groups for an optimizer, every one exactly once.

| parameter                                                     | orth="conv" | orth="all" | decay, LARS |
|---------------------------------------------------------------|-------------|------------|-------------|
| convolution weight (one matrix a group), transposed ones too  | yes         | yes        | yes         |
| dense weight, and any other matrix with more than one row     | no          | yes        | yes         |
| embedding table; tensor whose first dimension is 1 (positions)| no          | no         | yes         |
| anything of a normalisation layer, any vector or scalar       | no          | no         | no          |

Chosen by the type of the module that owns the parameter and by its dimension, never by its name.
`sslortho.optim.components` has the shapes of the matrices.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from sslortho.optim.components import View

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)

Kind = Literal["orthonormalised weights", "weights", "biases and norms"]
KINDS: tuple[Kind, ...] = get_args(Kind)

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


def attention_heads(model: nn.Module) -> dict[int, tuple[int, View]]:
    """How attention weights split into heads: id(weight) -> (`orth_components`, `orth_view`).

    Knows torch's MultiheadAttention, and modules in the form of timm's: an integer `num_heads`, and
    dense layers `qkv` (rows: q, k, v of one size; in each the heads, as timm stores them) and
    `proj`. Others are left whole.
    """
    found: dict[int, tuple[int, View]] = {}
    for module in model.modules():
        heads = getattr(module, "num_heads", None)
        qkv, output = getattr(module, "qkv", None), getattr(module, "proj", None)
        if isinstance(module, nn.MultiheadAttention):
            if module.in_proj_weight is not None:
                found[id(module.in_proj_weight)] = (3 * module.num_heads, "rows")
            for weight in (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight):
                if weight is not None:
                    found[id(weight)] = (module.num_heads, "rows")
            found[id(module.out_proj.weight)] = (module.num_heads, "columns")
        elif (
            isinstance(heads, int) and isinstance(qkv, nn.Linear) and isinstance(output, nn.Linear)
        ):
            width = output.in_features
            if qkv.out_features == 3 * width and width % heads == 0:  # q, k, v of one size
                found[id(qkv.weight)] = (3 * heads, "rows")
                found[id(output.weight)] = (heads, "columns")
    return found


def _layout(
    module: nn.Module, parameter: Tensor, heads: dict[int, tuple[int, View]]
) -> tuple[int, View]:
    """`orth_components` and `orth_view` of a parameter."""
    if id(parameter) in heads:
        return heads[id(parameter)]
    if isinstance(module, _ConvTransposeNd):
        return module.groups, "transposed"
    return (module.groups if isinstance(module, _ConvNd) else 1), "rows"


GroupKey = tuple[Kind, int, View]
"""Kind, `orth_components` and `orth_view` of a group."""


def _assign(
    model: nn.Module, orth: OrthChoice, heads: dict[int, tuple[int, View]]
) -> dict[GroupKey, dict[str, Tensor]]:
    """Every trainable parameter by name, in the group that it belongs to."""
    groups: dict[GroupKey, dict[str, Tensor]] = {}
    for module, name, parameter in owned_parameters(model):
        key: GroupKey = ("weights", 1, "rows")
        if is_exempt(module, parameter):
            key = ("biases and norms", 1, "rows")
        elif _is_orthonormalised(module, name, parameter, orth):
            key = ("orthonormalised weights", *_layout(module, parameter, heads))
        groups.setdefault(key, {})[name] = parameter
    return groups


def _describe(key: GroupKey) -> str:
    kind, components, view = key
    number = f", {components} matrices each" if components > 1 else ""
    return kind + number + (f", {view}" if view != "rows" else "")


def param_groups(
    model: nn.Module,
    orth: OrthChoice = "all",
    *,
    attention: Literal["whole", "heads"] = "whole",
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
        attention: "heads" gives each head of q, k, v and of the output a matrix of its own, "whole"
            takes every weight as one matrix. See `attention_heads`.
        lr: rate of the weights, in the optimizer's unit; None leaves it to the optimizer.
        lr_biases: rate of biases and norms; None for `lr`.
        weight_decay: decay of the weights; None leaves it to the optimizer. Biases and norms get 0.

    Returns:
        Groups with "params", "names", "name" (of the group), "orth", "orth_components", "orth_view"
        and what was given.
        The last group, "biases and norms", has weight_decay 0 and trust_coefficient None.

    Raises:
        ValueError: `orth` or `attention` is none of the above, there is no attention to split, or
            the model is none, has lazy parameters, or has nothing to train.
    """
    if not callable(orth) and orth not in ("conv", "all", "none"):
        raise ValueError(f"orth={orth!r} is not 'conv', 'all', 'none' or a function")
    if attention not in ("whole", "heads"):
        raise ValueError(f"attention={attention!r} is not 'whole' or 'heads'")
    if attention == "heads" and orth in ("conv", "none"):
        raise ValueError(
            f"attention='heads' has no effect with orth={orth!r}, which leaves dense layers raw; "
            "take orth='all'"
        )
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model={type(model).__name__} must be a torch.nn.Module: which parameters are norms is "
            "told by their modules"
        )
    if any(isinstance(p, nn.UninitializedParameter) for p in model.parameters()):
        raise ValueError(
            f"{type(model).__name__} has lazy parameters without shapes; run a batch through it first"
        )
    heads = attention_heads(model) if attention == "heads" else {}
    if attention == "heads" and not heads:
        raise ValueError(
            f"attention='heads' has no effect: {type(model).__name__} has no attention layer of a "
            "known form; set orth_components and orth_view in the groups yourself"
        )
    assigned = _assign(model, orth, heads)
    if not assigned:
        raise ValueError(f"{type(model).__name__} has no trainable parameters")

    groups: list[dict[str, Any]] = []
    for key in sorted(assigned, key=lambda key: (KINDS.index(key[0]), *key[1:])):
        kind, components, view = key
        group: dict[str, Any] = {
            "params": list(assigned[key].values()),
            "name": _describe(key),
            "names": list(assigned[key]),
            "orth": kind == "orthonormalised weights",
            "orth_components": components,
            "orth_view": view,
        }
        exempt = kind == "biases and norms"
        rate = lr_biases if exempt and lr_biases is not None else lr
        if rate is not None:
            group["lr"] = rate
        if exempt:
            group.update(weight_decay=0.0, trust_coefficient=None)
        elif weight_decay is not None:
            group["weight_decay"] = weight_decay
        groups.append(group)
    return groups
