"""The whole algorithm on one page: orthonormalise a gradient's matrices, then step (arXiv 2202.07052).

Read this file to learn the method; use `sslortho.optim` to train. It is literal and slow: one matrix
after another, one singular value decomposition for each, plain torch, and nothing from the fast parts.
`tests/optim/test_reference.py` holds the optimizers of `sslortho.optim` to it.

    roles = assign_roles(model)                 # which matrices is each parameter?
    state = {}                                  # momentum and the like, by name of parameter
    loss.backward()
    take_step(model, roles, state, lars_step, lr=0.2, weight_decay=1e-6)

Sections and equations are the paper's unless another source is named.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList

# --- Which matrices is a parameter? (section 2.2; dense layers 4.4.1; heads 5) ----------------------


class Role(NamedTuple):
    """How a parameter takes part in a step."""

    matrices: int = 0
    """Number of matrices that its gradient holds; 0: the gradient is used as it is."""
    view: str = "rows"
    """How they lie in it: "rows" one below the other, "columns" side by side, "transposed" one below
    the other with components along the second dimension."""
    exempt: bool = False
    """Whether it takes neither weight decay nor LARS's ratio: biases, scales, norms."""


NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
TABLES = (nn.Embedding, nn.EmbeddingBag)


def assign_roles(model: nn.Module, orth: str = "all", heads: bool = False) -> dict[str, Role]:
    """The role of each parameter, by name.

    Args:
        model: the layer that uses a parameter decides, never its name. Read are layers of torch, their
            parametrisations with weights of the same shape, and weights that layers share;
            `param_groups` knows more.
        orth: "all" orthonormalises every weight matrix; "conv" convolutions alone, as the paper does
            for Barlow Twins (section 3.3).
        heads: with orth="all", each attention head is a matrix of its own (section 5, future work).
    """
    uses = list(_uses(model))
    tables = {id(parameter) for _, layer, parameter, _ in uses if isinstance(layer, TABLES)}
    roles = {}
    for name, layer, parameter, magnitude in uses:
        if magnitude:
            roles[name] = Role(exempt=True)
        elif id(parameter) in tables:  # also where a head shares it
            roles[name] = Role()
        else:
            roles[name] = _role(layer, parameter, orth)
    if heads:
        split = _head_roles(model)
        roles.update({name: role for name, role in split.items() if name in roles})
    return roles


def _uses(model: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor, bool]]:
    """Yield (name, layer that uses it, parameter, whether it is weight_norm's magnitude)."""
    for path, layer in model.named_modules():
        if not isinstance(layer, ParametrizationList):
            for name, parameter in layer.named_parameters(prefix=path, recurse=False):
                yield name, layer, parameter, False
        for tensor, made in getattr(layer, "parametrizations", {}).items():
            prefix = f"{path}.parametrizations.{tensor}".lstrip(".")
            for name, parameter in made.named_parameters(prefix=prefix, recurse=False):
                is_weight_norm = isinstance(made[0], _WeightNorm)
                yield name, layer, parameter, is_weight_norm and name.endswith("original0")


def _role(module: nn.Module, parameter: Tensor, orth: str) -> Role:
    convolution = isinstance(module, _ConvNd)
    scale = parameter.ndim > 2 and parameter[0].numel() == 1 and not convolution  # (channels, 1, 1)
    if isinstance(module, NORMS) or parameter.ndim <= 1 or scale:
        return Role(exempt=True)
    if isinstance(module, TABLES):  # a table, not a map
        return Role()
    if convolution:
        # the channels of one group do not meet those of another: a matrix for each group
        return Role(module.groups, "transposed" if isinstance(module, _ConvTransposeNd) else "rows")
    if orth == "conv" or parameter.shape[0] == 1:  # one row, such as a table of positions
        return Role()
    return Role(1)  # a dense layer: the components are its outputs


def _head_roles(model: nn.Module) -> dict[str, Role]:
    """Roles of attention weights split into heads: torch's layer, and layers in the form of timm's."""
    roles = {}
    for path, module in model.named_modules():
        path = f"{path}." if path else ""
        qkv, output = getattr(module, "qkv", None), getattr(module, "proj", None)
        if isinstance(module, nn.MultiheadAttention):
            heads = module.num_heads
            roles[f"{path}in_proj_weight"] = Role(3 * heads)  # q, k, v; in each the heads
            roles.update({f"{path}{part}_proj_weight": Role(heads) for part in "qkv"})
            roles[f"{path}out_proj.weight"] = Role(heads, "columns")
        elif isinstance(qkv, nn.Linear) and isinstance(output, nn.Linear):
            heads, width = getattr(module, "num_heads", None), output.in_features
            if isinstance(heads, int) and qkv.out_features == 3 * width and width % heads == 0:
                roles[f"{path}qkv.weight"] = Role(3 * heads)
                roles[f"{path}proj.weight"] = Role(heads, "columns")
    return roles


def split_matrices(gradient: Tensor, role: Role) -> list[Tensor]:
    """Views of the gradient, one a matrix, whose first dimension counts components (equation 3).

    The paper's G_l holds the gradient of each component in a column; here it is a row. So a matrix is
    the view flattened from its second dimension on, and its polar factor is the transpose of O_l.
    """
    if role.view == "columns":
        return list(gradient.chunk(role.matrices, dim=1))
    blocks = gradient.chunk(role.matrices, dim=0)
    return [block.transpose(0, 1) if role.view == "transposed" else block for block in blocks]


# --- The nearest orthonormal matrix (equations 4 and 5) ---------------------------------------------


def nearest_orthonormal(matrix: Tensor, rank_tol: float | None = None) -> Tensor:
    """`U V^T` of a matrix `U S V^T` (rows, columns), without the directions that are noise.

    Args:
        matrix: float32 or float64.
        rank_tol: singular values below `rank_tol` times the largest count as zero; their directions
            go to zero, which makes the result a partial isometry and unique. None: eps times the longer
            side, as numpy's `matrix_rank`, but at most 1e-3. 0: every direction is kept, as in the
            authors' code.

    Returns:
        The same shape. Zero stays zero; a NaN or an infinity anywhere makes all of it NaN.
    """
    if not matrix.isfinite().all():
        return torch.full_like(matrix, torch.nan)
    if not matrix.any():
        return torch.zeros_like(matrix)
    if rank_tol is None:
        rank_tol = min(torch.finfo(matrix.dtype).eps * max(matrix.shape), 1e-3)
    u, s, vt = torch.linalg.svd(matrix / matrix.abs().max(), full_matrices=False)  # equation 4
    kept = s >= rank_tol * s[0]
    return u[:, kept] @ vt[kept]  # equation 5


def orthonormalise(gradient: Tensor, role: Role, rank_tol: float | None = None) -> Tensor:
    """A copy of the gradient with each of its matrices replaced by the nearest orthonormal one."""
    result = gradient.clone()
    for block in split_matrices(result, role):
        matrix = block.flatten(1)
        block.copy_(nearest_orthonormal(matrix, rank_tol).reshape(block.shape))
    return result


# --- The base optimizers' steps, on an orthonormal gradient `o` -------------------------------------
# The state of a parameter starts as an empty dictionary. Weight decay comes after the
# orthonormalisation. An exempt parameter takes none.


def sgd_step(
    p: Tensor,
    o: Tensor,
    state: dict[str, Any],
    exempt: bool,
    *,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> None:
    """Orthogonal-SGDM (equations 6 and 7).

    As in torch, the rate multiplies the velocity and not what goes into it: for a constant rate that
    is the paper's form, and after a change of the rate the whole velocity follows at once.
    """
    direction = o if exempt else o + weight_decay * p
    state["velocity"] = momentum * state.get("velocity", torch.zeros_like(p)) + direction  # 6
    p -= lr * state["velocity"]  # 7


def adam_step(
    p: Tensor,
    o: Tensor,
    state: dict[str, Any],
    exempt: bool,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> None:
    """Orthogonal-Adam (section 3.1.2; Adam: arXiv 1412.6980, algorithm 1).

    `decoupled` is AdamW (arXiv 1711.05101): the decay shrinks the weights and passes by the moments.
    """
    decay = 0.0 if exempt else weight_decay
    if decoupled:
        p *= 1 - lr * decay
    direction = o if decoupled else o + decay * p
    t = state["step"] = state.get("step", 0) + 1
    state["mean"] = betas[0] * state.get("mean", 0) + (1 - betas[0]) * direction
    state["square"] = betas[1] * state.get("square", 0) + (1 - betas[1]) * direction**2
    mean = state["mean"] / (1 - betas[0] ** t)
    square = state["square"] / (1 - betas[1] ** t)
    p -= lr * mean / (square.sqrt() + eps)


def lars_step(
    p: Tensor,
    o: Tensor,
    state: dict[str, Any],
    exempt: bool,
    *,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    trust_coefficient: float = 1e-3,
) -> None:
    """Orthogonal-LARS (section 3.3), in the dialect of facebookresearch/barlowtwins.

    The decay is a part of what is scaled, and the rate is not a part of the momentum. Where a norm is 0
    the ratio is 1 there; here it is the trust coefficient, since orthonormal gradients are long.
    """
    direction = o if exempt else o + weight_decay * p
    if not exempt:
        norms = p.norm(), direction.norm()
        ratio = norms[0] / norms[1] if all(norms) else 1
        direction = trust_coefficient * ratio * direction
    state["velocity"] = momentum * state.get("velocity", torch.zeros_like(p)) + direction
    p -= lr * state["velocity"]


@torch.no_grad()
def take_step(
    model: nn.Module,
    roles: dict[str, Role],
    state: dict[str, dict[str, Any]],
    rule: Callable[..., None],
    rank_tol: float | None = None,
    orth_momentum: float = 0.0,
    orth_nesterov: bool = False,
    **options: Any,
) -> None:
    """One step of a model after its backward pass; gradients are left as they are.

    Args:
        model: a parameter without a gradient is left alone.
        roles: of `assign_roles`.
        state: empty at first; the same dictionary at every step.
        rule: `sgd_step`, `adam_step` or `lars_step`.
        rank_tol: see `nearest_orthonormal`.
        orth_momentum: coefficient of a momentum before the orthonormalisation (Muon: K. Jordan et al.,
            2024); 0 for none. The rule's own momentum comes after it.
        orth_nesterov: whether it looks ahead by one gradient.
        options: keyword arguments of the rule; `lr` is absolute.
    """
    for name, p in model.named_parameters():
        if p.grad is not None:
            role = roles[name]
            own, direction = state.setdefault(name, {}), p.grad
            if role.matrices and orth_momentum:
                own["before"] = direction = orth_momentum * own.get("before", 0) + p.grad
                if orth_nesterov:
                    direction = p.grad + orth_momentum * direction
            o = orthonormalise(direction, role, rank_tol) if role.matrices else direction
            rule(p, o, own, role.exempt, **options)
