"""Layers: what a tensor is to the layer that uses it, by the layer's type and the tensor's shape.

| layer                  | known by                                                                   |
|------------------------|----------------------------------------------------------------------------|
| norm                   | torch's classes, or a `normalized_shape` equal to the parameter's shape    |
| embedding              | torch's classes, or `num_embeddings` and `embedding_dim`                   |
| convolution            | torch's classes, or `kernel_size` and a weight whose shape fits it and     |
|                        | `in_channels`, `out_channels` and `groups`, as far as the layer has them;  |
|                        | such as torchvision's DeformConv2d                                         |
| transposed convolution | torch's classes, or a convolution whose weight has inputs first; where     |
|                        | inputs and outputs are as many, by `transposed`, by `output_padding`, or   |
|                        | by the name of the class                                                   |
| dense layer            | nn.Linear                                                                  |
| attention              | see `find_heads`                                                           |

Subclasses count as their class.
"""

from typing import NamedTuple

from torch import Size, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from sslortho.optim.components import View

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)

WRAPPED = ("base_layer", "_orig_mod", "_checkpoint_wrapped_module", "module")
"""Names of the layer inside peft's adapters, torch.compile, activation checkpointing, and DDP."""


class Convolution(NamedTuple):
    """The sizes of a convolution layer."""

    groups: int
    inputs: int
    outputs: int
    kernel: Size
    transposed: bool

    @property
    def view(self) -> View:
        """How the matrices lie in the weight."""
        return "transposed" if self.transposed else "rows"

    @property
    def shape(self) -> Size:
        """Shape of the weight in torch's order."""
        first, second = self.inputs, self.outputs
        if not self.transposed:
            first, second = second, first
        return Size((first, second // self.groups, *self.kernel))


class Heads(NamedTuple):
    """How an attention weight is split into heads."""

    components: int
    view: View
    label: str


FUSED = "fused qkv"
"""Label of a weight that holds q, k and v."""

HeadsByTensor = dict[tuple[int, str], Heads]
"""Heads by id(layer) and the tensor's name in the layer."""


def is_container(module: nn.Module) -> bool:
    """Whether a module only holds parameters or modules for the one that holds it."""
    lists = isinstance(module, (nn.ParameterList, nn.ParameterDict))
    return lists or type(module) in (nn.ModuleList, nn.ModuleDict)


def is_norm(layer: nn.Module, shape: Size) -> bool:
    """Whether a parameter of this shape is one of a normalisation layer."""
    normalised = getattr(layer, "normalized_shape", None)
    return isinstance(layer, NORMS) or (
        isinstance(normalised, (tuple, list)) and shape == tuple(normalised)
    )


def is_vector(shape: Size) -> bool:
    """Whether at most one dimension is longer than 1."""
    return sum(size > 1 for size in shape) <= 1


def is_known(layer: nn.Module) -> bool:
    """Whether the layer's class says what its weights are."""
    return isinstance(layer, (*NORMS, *EMBEDDINGS, _ConvNd, nn.Linear, nn.MultiheadAttention))


def is_table(layer: nn.Module, tensor: str, shape: Size) -> bool:
    """Whether a tensor of a layer is a table of embeddings, or the factor of one that is looked up.

    A low-rank adapter keeps that factor as (rank, num_embeddings). The other factor,
    (embedding_dim, rank), is a dense map.
    """
    number, width = (getattr(layer, name, None) for name in ("num_embeddings", "embedding_dim"))
    if isinstance(layer, EMBEDDINGS):
        return tensor == "weight" or number in shape
    if isinstance(number, int) and isinstance(width, int) and shape == (number, width):
        return True
    # an adapter of an embedding holds that embedding and nothing else of its kind
    children = [
        child
        for child in layer.children()
        if not is_container(child) and any(True for _ in child.parameters())
    ]
    return (
        len(children) == 1
        and isinstance(children[0], EMBEDDINGS)
        and len(shape) == 2
        and children[0].num_embeddings in shape
        and min(shape) < children[0].embedding_dim
    )


def own_shape(layer: nn.Module, tensor: str) -> Size | None:
    """Shape of a tensor of a layer of torch, computed from the layer's sizes; None where not known.

    The tensor itself is not read: to read a parametrised one runs the parametrisation, and that of
    spectral_norm then changes its buffers.
    """
    if isinstance(layer, nn.MultiheadAttention):
        width = layer.embed_dim
        inputs = {"q": width, "k": layer.kdim, "v": layer.vdim}
        shapes = {f"{part}_proj_weight": (width, size) for part, size in inputs.items()}
        shapes["in_proj_weight"] = (3 * width, width)
        return Size(shapes[tensor]) if tensor in shapes else None
    if isinstance(layer, _ConvNd):
        return torch_convolution(layer).shape
    if isinstance(layer, nn.Linear):
        return Size((layer.out_features, layer.in_features))
    if isinstance(layer, EMBEDDINGS):
        return Size((layer.num_embeddings, layer.embedding_dim))
    return None


def torch_convolution(layer: _ConvNd) -> Convolution:
    """The sizes of a convolution layer of torch."""
    return Convolution(
        layer.groups,
        layer.in_channels,
        layer.out_channels,
        Size(layer.kernel_size),
        isinstance(layer, _ConvTransposeNd),
    )


def find_convolution(
    layer: nn.Module, tensor: str, shape: Size, direct: bool = True
) -> Convolution | None:
    """The convolution that a tensor is the weight of; None where it is no such weight.

    Args:
        layer: the layer that uses the tensor.
        tensor: name of the tensor in the layer.
        shape: of the parameter, which may differ from the tensor's where a parametrisation makes that.
        direct: whether the parameter itself is the tensor.
    """
    if isinstance(layer, _ConvNd):
        found = torch_convolution(layer)
        # channels may have been cut away without a word to the layer
        return found if (direct and tensor == "weight") or _fits(found, shape) else None
    if is_known(layer) or len(shape) < (3 if direct else 2):
        return None
    found = next((c for c in _candidates(layer, shape) if _fits(c, shape)), None)
    channels = any(_integer(layer, name) for name in ("in_channels", "groups"))
    return found if channels or (tensor == "weight" and shape[0] > 1) else None


def is_reordered_convolution(layer: nn.Module, shape: Size) -> bool:
    """Whether a tensor is a convolution's weight whose dimensions are in an order that is not known.

    Some libraries of sparse convolutions keep filters as (kernel sizes, inputs, outputs).
    """
    sizes = ("in_channels", "out_channels")
    if is_known(layer) or len(shape) < 3 or not all(_integer(layer, name) for name in sizes):
        return False
    return any(
        shape[0] != c.outputs and shape.numel() == c.shape.numel()
        for c in _candidates(layer, shape)
    )


def _fits(convolution: Convolution, shape: Size) -> bool:
    """Whether the matrices of a tensor of this shape are those of the convolution's weight."""
    expected = convolution.shape
    if convolution.transposed or len(shape) < 2:
        return shape == expected
    # the order of a filter's entries is that of the columns, which the polar factor follows
    return shape[0] == expected[0] and shape.numel() == expected.numel()


def _integer(layer: nn.Module, name: str) -> int | None:
    value = getattr(layer, name, None)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _candidates(layer: nn.Module, shape: Size) -> list[Convolution]:
    """The convolutions that a layer's attributes allow for a weight of this shape, likeliest first."""
    kernel = getattr(layer, "kernel_size", None)
    if isinstance(kernel, int):
        kernel = (kernel,) * (len(shape) - 2)
    if not isinstance(kernel, (tuple, list)) or not all(isinstance(k, int) for k in kernel):
        return []
    inputs, outputs = _integer(layer, "in_channels"), _integer(layer, "out_channels")
    groups = _integer(layer, "groups")

    def convolution(transposed: bool) -> Convolution | None:
        first, second = (inputs, outputs) if transposed else (outputs, inputs)
        first = first or shape[0]
        number = groups or (second or shape[1]) // max(shape[1], 1) or 1
        second = second or shape[1] * number
        if first % number or second % number:
            return None
        sizes = (first, second) if transposed else (second, first)
        return Convolution(number, *sizes, Size(kernel), transposed)

    return [c for c in map(convolution, _guess_transposed(layer)) if c is not None]


def _guess_transposed(layer: nn.Module) -> tuple[bool, ...]:
    """Whether a convolution that is not torch's is transposed, likeliest answer first.

    Shapes decide between two answers. Where inputs and outputs are as many, the first answer stands.
    """
    likely = getattr(layer, "transposed", None)
    if not isinstance(likely, bool):
        name = type(layer).__name__.lower()
        likely = hasattr(layer, "output_padding") or "transpose" in name or "deconv" in name
    return likely, not likely


def find_heads(model: nn.Module) -> HeadsByTensor:
    """Number and view of the heads of attention weights.

    Knows torch's MultiheadAttention, and modules in the form of timm's: an integer `num_heads`, and
    dense layers `qkv` (rows: q, k, v of one size; in each the heads, as timm stores them) and
    `proj`. A dense layer may be inside another module, see WRAPPED. Attention of other forms is
    left whole.
    """
    found: HeadsByTensor = {}
    for module in model.modules():
        heads = getattr(module, "num_heads", None)
        if isinstance(module, nn.MultiheadAttention):
            found.update(_torch_heads(module))
        elif isinstance(heads, int) and heads > 0:
            qkv, output = (_dense(getattr(module, name, None)) for name in ("qkv", "proj"))
            if qkv is None or output is None:
                continue
            width = output.in_features
            if qkv.out_features == 3 * width and width % heads == 0:  # q, k, v of one size
                found[id(qkv), "weight"] = Heads(3 * heads, "rows", FUSED)
                found[id(output), "weight"] = Heads(heads, "columns", "attention output")
    return found


def fused_alone(heads: HeadsByTensor) -> HeadsByTensor:
    """Fused q, k and v among the attention weights of `find_heads`, in three matrices each."""
    return {
        tensor: Heads(3, "rows", FUSED) for tensor, found in heads.items() if found.label == FUSED
    }


def _torch_heads(attention: nn.MultiheadAttention) -> HeadsByTensor:
    heads = attention.num_heads
    found: HeadsByTensor = {}
    found[id(attention), "in_proj_weight"] = Heads(3 * heads, "rows", FUSED)
    single = Heads(heads, "rows", "q, k or v")
    for part in "qkv":
        found[id(attention), f"{part}_proj_weight"] = single
        # the copy for quantisation-aware training has dense layers instead
        dense = _dense(getattr(attention, f"linear_{part.upper()}", None))
        if dense is not None:
            found[id(dense), "weight"] = single
    output = _dense(attention.out_proj)
    if output is not None:
        found[id(output), "weight"] = Heads(heads, "columns", "attention output")
    return found


def _dense(module: object) -> nn.Linear | None:
    """The dense layer that a module is, or that it adapts or wraps."""
    while isinstance(module, nn.Module) and not isinstance(module, nn.Linear):
        inside = dict(module.named_children())
        module = next((inside[name] for name in WRAPPED if name in inside), None)
    return module if isinstance(module, nn.Linear) else None
