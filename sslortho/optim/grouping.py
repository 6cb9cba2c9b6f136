"""Parameter groups: each trainable parameter of a model in one group, with what it gets.

| parameter                                                     | orth="conv" | orth="all" | decay, LARS |
|---------------------------------------------------------------|-------------|------------|-------------|
| convolution weight (one matrix a group), transposed ones too  | yes         | yes        | yes         |
| dense weight, and any other matrix with more than one row     | no          | yes        | yes         |
| embedding table; tensor whose first dimension is 1 (positions)| no          | no         | yes         |
| anything of a normalisation layer, any vector or scalar, a    | no          | no         | no          |
| (channels, 1, 1) scale                                        |             |            |             |

The type of the owning module and the shape of the parameter decide, never its name.
`sslortho.optim.components` has the shapes of the matrices; `sslortho.optim.describe_param_groups`
prints what each parameter of a model gets, and why.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, get_args

from torch import Size, Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from sslortho.optim.components import View

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)

Kind = Literal["orthonormalised weights", "weights", "biases and norms"]
KINDS: tuple[Kind, ...] = get_args(Kind)

OrthChoice = Literal["conv", "all", "none"] | Callable[[nn.Module, str, Tensor], bool]
Attention = Literal["whole", "heads"]

Heads = tuple[int, View]
"""`orth_components` and `orth_view` of an attention weight that is split into heads."""

GroupKey = tuple[Kind, int, View]
"""Kind, `orth_components` and `orth_view` of a group."""


class Decision(NamedTuple):
    """The group of a parameter, and the reason in a few words."""

    key: GroupKey
    reason: str


def owned_parameters(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Yield (owning module, full name, parameter) of each trainable parameter, shared ones once."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                yield module, f"{prefix}.{name}" if prefix else name, parameter


def attention_heads(model: nn.Module) -> dict[int, Heads]:
    """Number and view of the heads of attention weights, by id(weight).

    Knows torch's MultiheadAttention, and modules in the form of timm's: an integer `num_heads`, and
    dense layers `qkv` (rows: q, k, v of one size; in each the heads, as timm stores them) and
    `proj`. Attention of other forms is left whole.
    """
    found: dict[int, Heads] = {}
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


def matrix_shape(shape: Size, components: int, view: View) -> tuple[int, int, int]:
    """(number, rows, columns) of the matrices that `to_matrices` makes of a tensor of this shape."""
    first, rest = shape[0], Size(shape[1:]).numel()
    if view == "columns":
        return components, first, rest // components
    if view == "transposed":
        return components, shape[1], first // components * Size(shape[2:]).numel()
    return components, first // components, rest


def _exemption(module: nn.Module, parameter: Tensor) -> str | None:
    """The reason why a parameter takes neither decay nor LARS's ratio; None where it takes both."""
    if isinstance(module, NORMS):
        return "norm"
    if parameter.ndim <= 1:
        return "bias, scale or other vector"
    # torchvision's ConvNeXt holds its layer scale as (channels, 1, 1), to multiply images by it
    scale = parameter.ndim > 2 and Size(parameter.shape[1:]).numel() == 1
    return "a vector in the shape of a scale" if scale and not isinstance(module, _ConvNd) else None


def _layer(module: nn.Module, parameter: Tensor, heads: Heads | None) -> str:
    """The kind of layer that a matrix is the weight of, in words."""
    if isinstance(module, _ConvNd):
        name = "transposed convolution" if isinstance(module, _ConvTransposeNd) else "convolution"
        if module.groups == 1:
            return name
        return f"{'depthwise' if module.groups == module.in_channels else 'grouped'} {name}"
    if heads is None:
        return "dense" if isinstance(module, nn.Linear) else "other weight"
    if heads[1] == "columns":
        return "attention output"
    fused = isinstance(module, nn.Linear) or parameter is getattr(module, "in_proj_weight", None)
    return "fused qkv" if fused else "q, k or v"


def _orthonormalised(
    module: nn.Module, parameter: Tensor, heads: Heads | None, split: bool
) -> Decision:
    """The decision for a matrix that `orth` has chosen."""
    layout: Heads = (1, "rows")
    if split and heads is not None:
        layout = heads
    elif isinstance(module, _ConvNd):
        layout = module.groups, "transposed" if isinstance(module, _ConvTransposeNd) else "rows"
    number, rows, columns = matrix_shape(parameter.shape, *layout)
    count = f"{number} matrices of {rows} x {columns}" if number > 1 else "1 matrix"
    reason = f"{_layer(module, parameter, heads)}, {count}"
    if rows == 1 or columns == 1:  # its nearest orthonormal matrix is itself at length 1
        reason += ": only normalised"
    if heads is not None and not split:
        reason += "; attention='heads' splits it"
    return Decision(("orthonormalised weights", layout[0], layout[1]), reason)


def decide(
    module: nn.Module,
    name: str,
    parameter: Tensor,
    orth: OrthChoice,
    heads: Heads | None = None,
    split: bool = False,
) -> Decision:
    """Decide the group of one parameter by the rules of this module's table.

    Args:
        module: the owner of the parameter.
        name: full name, for a function `orth`.
        parameter: its shape is read, never its values.
        orth: as for `param_groups`.
        heads: the parameter's entry of `attention_heads`, if it has one.
        split: whether each head is a matrix of its own.
    """
    exemption = _exemption(module, parameter)
    if exemption is not None:
        return Decision(("biases and norms", 1, "rows"), exemption)
    raw: GroupKey = ("weights", 1, "rows")
    if isinstance(module, EMBEDDINGS):
        return Decision(raw, "embedding")
    if callable(orth):
        if not orth(module, name, parameter):
            return Decision(raw, "your function said no")
        key, reason = _orthonormalised(module, parameter, heads, split)
        return Decision(key, f"your function said yes: {reason}")
    if orth == "none":
        return Decision(raw, "orth='none' leaves all raw")
    if not isinstance(module, _ConvNd):
        if orth == "conv":
            return Decision(raw, "orth='conv' leaves all but convolutions raw")
        if parameter.shape[0] == 1:
            return Decision(raw, "first dimension is 1")
    return _orthonormalised(module, parameter, heads, split)


def _check(model: nn.Module, orth: OrthChoice, attention: Attention) -> None:
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
            f"model={type(model).__name__} must be a torch.nn.Module: the modules tell which parameters "
            "are norms"
        )
    if any(isinstance(p, nn.UninitializedParameter) for p in model.parameters()):
        raise ValueError(
            f"{type(model).__name__} has lazy parameters without shapes; run a batch through it first"
        )


def decide_all(
    model: nn.Module, orth: OrthChoice, attention: Attention
) -> dict[str, tuple[Tensor, Decision]]:
    """Every trainable parameter by name, with its decision; raises as `param_groups` does."""
    _check(model, orth, attention)
    heads, split = attention_heads(model), attention == "heads"
    if split and not heads:
        raise ValueError(
            f"attention='heads' has no effect: {type(model).__name__} has no attention layer of a "
            "known form; set orth_components and orth_view in the groups yourself"
        )
    decided = {
        name: (p, decide(module, name, p, orth, heads.get(id(p)), split))
        for module, name, p in owned_parameters(model)
    }
    if not decided:
        raise ValueError(f"{type(model).__name__} has no trainable parameters")
    return decided


def group_name(key: GroupKey) -> str:
    """The name of a group."""
    kind, components, view = key
    number = f", {components} matrices each" if components > 1 else ""
    return kind + number + (f", {view}" if view != "rows" else "")


def group_order(key: GroupKey) -> tuple[int, int, View]:
    """Sort key of groups: orthonormalised ones first, biases and norms last."""
    return KINDS.index(key[0]), *key[1:]


def param_groups(
    model: nn.Module,
    orth: OrthChoice = "all",
    *,
    attention: Attention = "whole",
    lr: float | None = None,
    lr_biases: float | None = None,
    weight_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Make parameter groups for an optimizer of `sslortho.optim` or of torch, by this module's table.

    Orthonormalised are:

    | architecture | "conv"                                    | "all": that, and                       |
    |--------------|-------------------------------------------|----------------------------------------|
    | ResNet       | all convolutions (ResNet-50: 92 %)        | the head                               |
    | ConvNeXt     | stem, downsampling (Tiny: 5 %); depthwise | dense layers of the blocks, the head   |
    |              | filters, each normalised by itself        |                                        |
    | ViT          | the patch embedding (B/16: 1 %)           | qkv (one matrix), outputs, MLPs, head  |

    A function that leaves out a head and depthwise filters:

        lambda module, name, parameter: not (
            name.startswith("head.") or getattr(module, "groups", 1) > 1
        )

    Args:
        model: a module whose parameters have shapes. Frozen parameters are left out.
        orth: "conv" orthonormalises the gradients of convolutions alone (the paper's choice for
            Barlow Twins, section 3.3), "all" those of every matrix, "none" none; or a function of
            (owning module, full name, parameter) that is True for matrices to orthonormalise.
        attention: "heads" gives each head of q, k, v and of the output a matrix of its own, "whole"
            takes every weight as one matrix. See `attention_heads`.
        lr: absolute learning rate of the weights; None leaves it to the optimizer.
        lr_biases: absolute learning rate of biases and norms; None for `lr`.
        weight_decay: decay of the weights; None leaves it to the optimizer. Biases and norms get 0.

    Returns:
        Groups with "params", "names", "name" (of the group), "orth", "orth_components", "orth_view", and
        "lr" and "weight_decay" where they were given. The last group, "biases and norms", has
        weight_decay 0 and trust_coefficient None.

    Raises:
        ValueError: `orth` or `attention` has another value, there is no attention to split, or the
            model is not a module, has lazy parameters, or has nothing to train.
    """
    assigned: dict[GroupKey, dict[str, Tensor]] = {}
    for name, (parameter, decision) in decide_all(model, orth, attention).items():
        assigned.setdefault(decision.key, {})[name] = parameter

    groups: list[dict[str, Any]] = []
    for key in sorted(assigned, key=group_order):
        kind, components, view = key
        group: dict[str, Any] = {
            "params": list(assigned[key].values()),
            "name": group_name(key),
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
