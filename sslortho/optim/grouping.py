"""Parameter groups: each trainable parameter of a model in one group, with what it gets.

| parameter                                                     | orth="conv" | orth="all" | decay, LARS |
|---------------------------------------------------------------|-------------|------------|-------------|
| convolution weight (one matrix a group), transposed ones too  | yes         | yes        | yes         |
| dense weight, and any other matrix with more than one row     | no          | yes        | yes         |
| embedding table; tensor whose first dimension is 1 (positions)| no          | no         | yes         |
| anything of a normalisation layer, any vector or scalar, a    | no          | no         | no          |
| (channels, 1, 1) scale, the magnitude of weight_norm          |             |            |             |

The type of the layer that uses the parameter and the shape of the parameter decide, never its name:

- a parametrised weight (torch's spectral_norm, weight_norm, orthogonal, or your own) is decided as the
  layer's own weight. Where the parametrisation has several tensors, or one of another shape than the
  weight, each is decided by its shape: that of the weight is the weight, a vector in the shape of a
  scale is a scale, and any other is a matrix of its own;
- a weight that several layers share is a table if one of them is an embedding, else a convolution's,
  else a dense layer's, in whatever order they are registered. Parameters in the same memory count as
  shared;
- a weight in a ParameterList or a ParameterDict belongs to the module that holds the list;
- a convolution weight whose dimensions are in an order that is not known is left raw, unless a function
  chooses it.

`sslortho.optim.layers` knows the layers, `sslortho.optim.uses` who uses a parameter,
`sslortho.optim.components` the shapes of the matrices. `sslortho.optim.describe_param_groups` prints
what each parameter of a model gets, and why.
"""

from collections.abc import Callable, Collection
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Size, Tensor, nn

from sslortho.optim.components import View, matrix_shape
from sslortho.optim.flattened import check_not_flattened
from sslortho.optim.layers import HeadsByTensor, find_heads, fused_alone
from sslortho.optim.roles import Role, choose_role, describe_origin
from sslortho.optim.uses import NamedUse, list_uses
from sslortho.options import nearest

Kind = Literal["orthonormalised weights", "weights", "biases and norms"]
KINDS: tuple[Kind, ...] = get_args(Kind)

OrthChoice = Literal["conv", "all", "none"] | Callable[[nn.Module, str, Tensor], bool]
Attention = Literal["whole", "qkv", "heads"]

GroupKey = tuple[Kind, int, View]
"""Kind, `orth_components` and `orth_view` of a group."""


class Decision(NamedTuple):
    """The group of a parameter, and the reason in a few words."""

    key: GroupKey
    reason: str


def _orthonormalised(role: Role, shape: Size, split: bool) -> Decision:
    """The decision for a matrix that `orth` has chosen."""
    whole = role.kind == "attention" and not split
    layout: tuple[int, View] = (1, "rows") if whole else (role.components, role.view)
    number, rows, columns = matrix_shape(shape, *layout)
    count = f"{number} matrices of {rows} x {columns}" if number > 1 else "1 matrix"
    reason = f"{role.words}, {count}"
    if rows == 1 or columns == 1:  # its nearest orthonormal matrix is itself at length 1
        reason += ": only normalised"
    if whole:
        reason += "; attention='heads' splits it"
    return Decision(("orthonormalised weights", layout[0], layout[1]), reason)


def decide(role: Role, name: str, parameter: Tensor, orth: OrthChoice, split: bool) -> Decision:
    """Decide the group of one parameter by the rules of this module's table.

    Args:
        role: what the parameter is to the layer that uses it.
        name: full name, for a function `orth`.
        parameter: its shape is read, never its values.
        orth: as for `param_groups`.
        split: whether each attention head is a matrix of its own.
    """
    if role.kind in ("exempt", "scale"):
        return Decision(("biases and norms", 1, "rows"), role.words)
    raw: GroupKey = ("weights", 1, "rows")
    if role.kind == "table":
        return Decision(raw, role.words)
    if callable(orth):
        if not orth(role.use.layer, name, parameter):
            return Decision(raw, "your function said no")
        key, reason = _orthonormalised(role, parameter.shape, split)
        return Decision(key, f"your function said yes: {reason}")
    if orth == "none":
        return Decision(raw, "orth='none' leaves all raw")
    if role.kind == "reordered convolution":
        return Decision(raw, f"{role.words} of dimensions")
    if role.kind != "convolution":
        if orth == "conv":
            return Decision(raw, "orth='conv' leaves all but convolutions raw")
        if parameter.shape[0] == 1:
            return Decision(raw, "first dimension is 1")
    return _orthonormalised(role, parameter.shape, split)


def _check(model: nn.Module, orth: OrthChoice, attention: Attention) -> None:
    if not callable(orth) and orth not in ("conv", "all", "none"):
        raise ValueError(f"orth={orth!r} is not 'conv', 'all', 'none' or a function")
    if attention not in get_args(Attention):
        raise ValueError(f"attention={attention!r} is not 'whole', 'qkv' or 'heads'")
    if attention != "whole" and orth in ("conv", "none"):
        raise ValueError(
            f"attention={attention!r} has no effect with orth={orth!r}, which leaves dense layers raw; "
            "take orth='all'"
        )
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model={type(model).__name__} must be a torch.nn.Module: the modules tell which parameters "
            "are norms"
        )
    check_not_flattened(model)
    lazy = [n for n, p in model.named_parameters() if isinstance(p, nn.UninitializedParameter)]
    if lazy:
        names = ", ".join(lazy[:3]) + (", ..." if len(lazy) > 3 else "")
        raise ValueError(
            f"{type(model).__name__} has lazy parameters without shapes ({names}); run a batch through "
            "it first"
        )


def _memory(parameter: Tensor) -> object:
    """A key that is the same for parameters that share their numbers.

    weight_norm of a tied weight makes a parameter of its own in the same memory, and so does
    `nn.Parameter(embedding.weight.t())`, which has another shape.
    """
    dense = type(parameter) is nn.Parameter and parameter.layout is torch.strided
    if not dense or parameter.is_meta:
        return id(parameter)
    address = parameter.data_ptr()
    return (address, parameter.device, parameter.numel()) if address else id(parameter)


def _applies(role: Role, theirs: Size, ours: Size) -> bool:
    """Whether a role of a parameter decides over one of another shape in the same memory.

    A table does. The matrices of other roles must be the same, as those of a 1x1 convolution and a dense
    layer are.
    """
    alike = role.view == "rows" and min(len(theirs), len(ours)) > 1 and theirs[0] == ours[0]
    return theirs == ours or role.kind == "table" or alike


def _decide_named(
    named: list[NamedUse], orth: OrthChoice, split: bool, heads: HeadsByTensor
) -> dict[str, tuple[Tensor, Decision]]:
    """Every trainable parameter by its first name, with its decision."""
    shared: dict[object, list[NamedUse]] = {}
    for entry in named:
        shared.setdefault(_memory(entry.parameter), []).append(entry)
    decided: dict[str, tuple[Tensor, Decision]] = {}
    seen: set[int] = set()
    for first in named:
        if id(first.parameter) in seen or not first.parameter.requires_grad:
            continue
        seen.add(id(first.parameter))
        entries = shared[_memory(first.parameter)]
        own = first.parameter.shape
        roles = [
            (choose_role(e.uses, e.parameter.shape, heads), e.parameter.shape) for e in entries
        ]
        role = min((r for r, shape in roles if _applies(r, shape, own)), key=lambda r: r.rank)
        key, reason = decide(role, first.name, first.parameter, orth, split)
        origin = describe_origin(role.use)
        reason += f"; {origin}" if origin else ""
        if not any(use is role.use for use in first.uses):
            other = next(e.name for e in entries if any(use is role.use for use in e.uses))
            reason += f"; shared with {other}, which decides"
        decided[first.name] = first.parameter, Decision(key, reason)
    return decided


def _exempt(
    decided: dict[str, tuple[Tensor, Decision]], no_decay: Collection[str]
) -> dict[str, tuple[Tensor, Decision]]:
    """The decisions, with the parameters named in `no_decay` among biases and norms."""
    unknown = [name for name in no_decay if name not in decided]
    if unknown:
        raise ValueError(
            f"no_decay: {unknown[0]!r} is no trainable parameter of the model{nearest(unknown[0], decided)}"
        )
    exempt = Decision(("biases and norms", 1, "rows"), "named in no_decay")
    return {name: (p, exempt if name in no_decay else d) for name, (p, d) in decided.items()}


def decide_all(
    model: nn.Module, orth: OrthChoice, attention: Attention, no_decay: Collection[str] = ()
) -> dict[str, tuple[Tensor, Decision]]:
    """Every trainable parameter by name, with its decision; raises as `param_groups` does."""
    _check(model, orth, attention)
    heads, split = find_heads(model), attention != "whole"
    if split and not heads:
        raise ValueError(
            f"attention={attention!r} has no effect: {type(model).__name__} has no attention layer of a "
            "known form; set orth_components and orth_view in the groups yourself"
        )
    if attention == "qkv":
        heads = fused_alone(heads)
    decided = _decide_named(list_uses(model, every_name=False), orth, split, heads)
    if not decided:
        raise ValueError(f"{type(model).__name__} has no trainable parameters")
    return _exempt(decided, no_decay)


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
    lr_raw: float | None = None,
    weight_decay: float | None = None,
    no_decay: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Make parameter groups for an optimizer of `sslortho.optim` or of torch, by this module's table.

    Orthonormalised are:

    | architecture | "conv"                                    | "all": that, and                       |
    |--------------|-------------------------------------------|----------------------------------------|
    | ResNet       | all convolutions (ResNet-50: 92 %)        | the head                               |
    | ConvNeXt     | stem, downsampling (Tiny: 5 %); depthwise | dense layers of the blocks, the head   |
    |              | filters, each normalised by itself        |                                        |
    | ViT          | the patch embedding (B/16: 1 %)           | qkv (one matrix), outputs, MLPs, head  |

    A function that leaves out a head and depthwise filters, and class tokens and positions, of which it is
    asked too:

        lambda module, name, parameter: parameter.shape[0] > 1 and not (
            name.startswith("head.") or getattr(module, "groups", 1) > 1
        )

    Args:
        model: a module whose parameters have shapes. Frozen parameters are left out.
        orth: "conv" orthonormalises the gradients of convolutions alone (the paper's choice for
            Barlow Twins, section 3.3), "all" those of every matrix, "none" none; or a function of
            (layer, full name, parameter) that is True for matrices to orthonormalise. The layer is the
            one that uses the parameter, such as the convolution under a parametrisation; where several
            share the parameter, the one that decides over it.
        attention: "heads" gives each head of q, k, v and of the output a matrix of its own; "qkv" makes
            three matrices of a fused q, k and v, as K. Jordan advises; "whole" takes every weight as one
            matrix. See `sslortho.optim.layers.find_heads`.
        lr: absolute learning rate of the weights; None leaves it to the optimizer.
        lr_biases: absolute learning rate of biases and norms; None for that of other raw groups.
        lr_raw: absolute learning rate of all groups with orth=False, which Muon steps by AdamW; None for
            `lr`. With Muon give it, or leave `lr` out: AdamW then has Muon's `adamw_lr`.
        weight_decay: decay of the weights; None leaves it to the optimizer. Biases and norms get 0.
        no_decay: full names of parameters to count among biases and norms: neither orthonormalised nor
            decayed, such as positions and class tokens. timm's models name them: `model.no_weight_decay()`.

    Returns:
        Groups with "params", "names", "name" (of the group), "orth", "orth_components", "orth_view", and
        "lr" and "weight_decay" where they were given. The last group, "biases and norms", has
        weight_decay 0 and trust_coefficient None.

    Raises:
        ValueError: `orth` or `attention` has another value, there is no attention to split, `no_decay` names
            what is no trainable parameter, or the
            model is not a module, has lazy parameters or flattened ones (FSDP1), or has nothing to train.
    """
    assigned: dict[GroupKey, dict[str, Tensor]] = {}
    for name, (parameter, decision) in decide_all(model, orth, attention, no_decay).items():
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
        rate = lr if group["orth"] or lr_raw is None else lr_raw
        if exempt and lr_biases is not None:
            rate = lr_biases
        if rate is not None:
            group["lr"] = rate
        if exempt:
            group.update(weight_decay=0.0, trust_coefficient=None)
        elif weight_decay is not None:
            group["weight_decay"] = weight_decay
        groups.append(group)
    return groups
