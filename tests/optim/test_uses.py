"""Parameters that another module holds than the layer that uses them."""

import copy
import itertools
import warnings
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from sslortho.optim import OrthSGD, describe_param_groups, param_groups
from sslortho.optim.grouping import Attention, OrthChoice

RAW, EXEMPT, ONE = "raw", "exempt", (1, "rows")


def layouts(
    model: nn.Module, orth: OrthChoice = "all", attention: Attention = "whole"
) -> dict[str, str | tuple[int, str]]:
    """The matrices (number, view) of each parameter by name, or "raw", or "exempt" from all."""
    found: dict[str, str | tuple[int, str]] = {}
    for group in param_groups(model, orth, attention=attention):
        layout = group["orth_components"], group["orth_view"]
        exempt = EXEMPT if group.get("trust_coefficient", 0) is None else RAW
        found.update(dict.fromkeys(group["names"], layout if group["orth"] else exempt))
    return found


def kinds(model: nn.Module, orth: OrthChoice = "all") -> dict[str, str | tuple[int, str]]:
    """`layouts` without biases."""
    return {name: kind for name, kind in layouts(model, orth).items() if not name.endswith("bias")}


def older(function: Callable[..., nn.Module], *arguments, **options) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return function(*arguments, **options)


# --- parametrisations -------------------------------------------------------------------------------

LAYERS = {
    "convolution": (lambda: nn.Conv2d(4, 6, 3), ONE, ONE),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, "rows"), (2, "rows")),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), (4, "rows"), (4, "rows")),
    "pointwise depthwise": (lambda: nn.Conv2d(4, 4, 1, groups=4), (4, "rows"), (4, "rows")),
    "1d": (lambda: nn.Conv1d(4, 6, 3, groups=2), (2, "rows"), (2, "rows")),
    "3d": (lambda: nn.Conv3d(4, 6, 3, groups=2), (2, "rows"), (2, "rows")),
    "transposed": (
        lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
        (2, "transposed"),
        (2, "transposed"),
    ),
    "square transposed": (
        lambda: nn.ConvTranspose1d(4, 4, 3),
        (1, "transposed"),
        (1, "transposed"),
    ),
    "deformable": (
        lambda: torchvision.ops.DeformConv2d(4, 6, 3, groups=2),
        (2, "rows"),
        (2, "rows"),
    ),
    "dense": (lambda: nn.Linear(4, 6), RAW, ONE),
    "one input": (lambda: nn.Linear(1, 6), RAW, ONE),
    "one output": (lambda: nn.Linear(6, 1), RAW, RAW),
    "table": (lambda: nn.Embedding(6, 4), RAW, RAW),
    "bag": (lambda: nn.EmbeddingBag(6, 4), RAW, RAW),
}


class Symmetric(nn.Module):
    """A parametrisation of one's own without an inverse; the shape stays."""

    def forward(self, weight: Tensor) -> Tensor:
        return (weight + weight.flip(0)) / 2


class Scaled(nn.Module):
    """weight_norm of one's own, by rows."""

    def forward(self, length: Tensor, direction: Tensor) -> Tensor:
        return length * direction / direction.flatten(1).norm(dim=1).view_as(length)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        norm = weight.flatten(1).norm(dim=1)
        return norm.view(-1, *[1] * (weight.ndim - 1)), weight


def with_own(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


def with_chain(layer: nn.Module) -> nn.Module:
    return parametrizations.spectral_norm(with_own(layer))


ONE_ORIGINAL = {
    "spectral_norm": (parametrizations.spectral_norm, "parametrizations.weight.original"),
    "own": (with_own, "parametrizations.weight.original"),
    "chain": (with_chain, "parametrizations.weight.original"),
    "older spectral_norm": (lambda layer: older(nn.utils.spectral_norm, layer), "weight_orig"),
    "pruned": (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), "weight_orig"),
    "pruned twice": (
        lambda layer: prune.random_unstructured(
            prune.l1_unstructured(layer, "weight", 1), "weight", 1
        ),
        "weight_orig",
    ),
}


@pytest.mark.parametrize("make", ONE_ORIGINAL)
@pytest.mark.parametrize("layer", LAYERS)
def test_one_original_is_the_layers_own_weight(layer, make):
    build, conv, everything = LAYERS[layer]
    apply, name = ONE_ORIGINAL[make]
    model = apply(build())
    assert kinds(model, "conv") == {name: conv}
    assert kinds(model, "all") == {name: everything}


WEIGHT_NORMS = {
    "new": (parametrizations.weight_norm, "parametrizations.weight.original{}", "01"),
    "older": (lambda layer, **dim: older(nn.utils.weight_norm, layer, **dim), "weight_{}", "gv"),
}


@pytest.mark.parametrize("api", WEIGHT_NORMS)
@pytest.mark.parametrize("dim", [0, 1, -1, None])
@pytest.mark.parametrize("layer", LAYERS)
def test_weight_norm_is_a_magnitude_and_the_layers_own_weight(layer, dim, api):
    build, conv, everything = LAYERS[layer]
    apply, name, (magnitude, direction) = WEIGHT_NORMS[api]
    model = apply(build(), dim=dim)
    for orth, expected in (("conv", conv), ("all", everything)):
        found = {name.format(magnitude): EXEMPT, name.format(direction): expected}
        assert kinds(model, orth) == found


@pytest.mark.parametrize("layer", ["grouped", "depthwise", "deformable", "dense", "table"])
def test_ones_own_weight_norm(layer):
    build, conv, everything = LAYERS[layer]
    model = build()
    parametrize.register_parametrization(model, "weight", Scaled())
    names = ("parametrizations.weight.original0", "parametrizations.weight.original1")
    assert kinds(model, "conv") == dict(zip(names, (EXEMPT, conv), strict=True))
    assert kinds(model, "all") == dict(zip(names, (EXEMPT, everything), strict=True))


@pytest.mark.parametrize("kind", ["matrix_exp", "cayley", "householder"])
@pytest.mark.parametrize("sizes", [(3, 5), (5, 3), (4, 4)], ids=str)
def test_orthogonal_is_the_layers_own_weight(sizes, kind):
    model = parametrizations.orthogonal(nn.Linear(*sizes), orthogonal_map=kind)
    assert kinds(model) == {"parametrizations.weight.original": ONE}


def test_reading_groups_changes_nothing():
    """To read a weight under spectral_norm in training runs a power iteration."""
    model = nn.Sequential(
        parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)),
        parametrizations.spectral_norm(nn.MultiheadAttention(8, 2), "in_proj_weight"),
    )
    before = copy.deepcopy(model.state_dict())
    param_groups(model, attention="heads")
    describe_param_groups(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


class Flat(nn.Module):
    """Filters kept as rows of a matrix: the parameter has another shape than the weight."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, rows: Tensor) -> Tensor:
        return rows.view(self.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.reshape(self.shape[0], -1).clone()


class Factors(nn.Module):
    """A weight as a product of two matrices."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return (left @ right).view(self.shape)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        columns = weight.flatten(1)
        return torch.zeros(len(columns), 2), torch.zeros(2, columns.shape[1])


class LowRankChange(nn.Module):
    """A weight plus a product of two matrices, times a gain of each row."""

    def __init__(self, shape: torch.Size, rank: int = 2) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.zeros(rank, shape[1:].numel()))
        self.up = nn.Parameter(torch.zeros(shape[0], rank))
        self.gain = nn.Parameter(torch.ones(shape[0], *[1] * (len(shape) - 1)))

    def forward(self, weight: Tensor) -> Tensor:
        return self.gain * (weight + (self.up @ self.down).view_as(weight))


@pytest.mark.parametrize(
    ("layer", "conv", "everything"),
    [
        (nn.Conv2d(4, 6, 3, groups=2), (2, "rows"), (2, "rows")),
        (nn.Conv2d(4, 4, 3, groups=4), (4, "rows"), (4, "rows")),
        (nn.ConvTranspose2d(4, 6, 3), RAW, ONE),  # its rows are mixed inputs, so it is any matrix
        (torchvision.ops.DeformConv2d(4, 6, 3, groups=2), (2, "rows"), (2, "rows")),
    ],
    ids=str,
)
def test_filters_kept_as_rows_keep_their_groups(layer, conv, everything):
    shape = layer.weight.shape
    parametrize.register_parametrization(layer, "weight", Flat(shape))
    assert kinds(layer, "conv") == {"parametrizations.weight.original": conv}
    assert kinds(layer, "all") == {"parametrizations.weight.original": everything}


@pytest.mark.parametrize("layer", ["convolution", "grouped", "dense"])
def test_factors_of_a_weight_are_matrices_of_their_own(layer):
    model = LAYERS[layer][0]()
    parametrize.register_parametrization(model, "weight", Factors(model.weight.shape))
    names = ("parametrizations.weight.original0", "parametrizations.weight.original1")
    assert kinds(model, "conv") == dict.fromkeys(names, RAW)
    assert kinds(model, "all") == dict.fromkeys(names, ONE)


@pytest.mark.parametrize("layer", ["grouped", "deformable", "dense"])
def test_parameters_of_a_parametrisation(layer):
    build, conv, everything = LAYERS[layer]
    model = build()
    parametrize.register_parametrization(model, "weight", LowRankChange(model.weight.shape))
    made = "parametrizations.weight"
    assert kinds(model, "conv") == {
        f"{made}.original": conv,
        f"{made}.0.down": RAW,
        f"{made}.0.up": RAW,
        f"{made}.0.gain": EXEMPT,
    }
    assert kinds(model, "all") == {
        f"{made}.original": everything,
        f"{made}.0.down": ONE,
        f"{made}.0.up": ONE,
        f"{made}.0.gain": EXEMPT,
    }


def test_layers_inside_a_parametrisation_are_their_own():
    """A network that makes the weight, as torch's tutorial does with nn.Linear."""
    model = nn.Conv2d(4, 4, 3, groups=4)
    maker = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.LayerNorm((3, 3)))
    parametrize.register_parametrization(model, "weight", maker)
    assert kinds(model, "all") == {
        "parametrizations.weight.original": (4, "rows"),
        "parametrizations.weight.0.0.weight": ONE,
        "parametrizations.weight.0.1.weight": EXEMPT,
    }
    dense = nn.Linear(4, 4)
    parametrize.register_parametrization(dense, "weight", nn.Linear(4, 4))
    assert set(kinds(dense, "all").values()) == {ONE}
    assert set(kinds(dense, "conv").values()) == {RAW}


def test_a_parametrised_original_belongs_to_the_layer_too():
    model = parametrizations.spectral_norm(nn.Conv2d(4, 4, 3, groups=4))
    parametrize.register_parametrization(
        model.parametrizations.weight,  # pyright: ignore
        "original",
        Symmetric(),
    )
    (found,) = kinds(model, "conv").values()
    assert found == (4, "rows")


def test_a_parametrised_magnitude_stays_one():
    """Kept positive by a parametrisation of the parametrisation's own tensor."""
    model = parametrizations.weight_norm(nn.Conv2d(4, 4, 3, groups=4, bias=False))
    made = model.parametrizations.weight
    parametrize.register_parametrization(made, "original0", nn.Softplus())  # pyright: ignore
    assert layouts(model) == {
        "parametrizations.weight.original1": (4, "rows"),
        "parametrizations.weight.parametrizations.original0.original": EXEMPT,
    }


def test_a_parametrised_parameter_of_a_parametrisation():
    model = nn.Linear(4, 6, bias=False)
    change = LowRankChange(model.weight.shape)
    parametrize.register_parametrization(model, "weight", change)
    parametrizations.spectral_norm(change, "up")
    assert set(kinds(model, "conv").values()) == {RAW, EXEMPT}
    assert kinds(model)["parametrizations.weight.0.parametrizations.up.original"] == ONE
    text = describe_param_groups(model)
    assert "SpectralNorm and LowRankChange make the weight of Linear from it" in text


def test_lstm_under_weight_norm():
    model = nn.LSTM(3, 5)
    parametrizations.weight_norm(model, "weight_hh_l0")
    assert kinds(model) == {
        "weight_ih_l0": ONE,
        "bias_ih_l0": EXEMPT,
        "bias_hh_l0": EXEMPT,
        "parametrizations.weight_hh_l0.original0": EXEMPT,
        "parametrizations.weight_hh_l0.original1": ONE,
    }


def test_norms_under_parametrisations_stay_norms():
    model = nn.LayerNorm((3, 5))
    parametrize.register_parametrization(model, "weight", Symmetric())
    assert set(layouts(model).values()) == {EXEMPT}


def test_function_is_given_the_layer():
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(4, 4, 3, groups=4)),
        parametrizations.spectral_norm(nn.Linear(4, 5)),
    )
    seen = {}

    def choose(module, name, parameter):
        seen[name] = module
        return getattr(module, "groups", 1) == 1

    assert kinds(model, choose) == {
        "0.parametrizations.weight.original0": EXEMPT,
        "0.parametrizations.weight.original1": RAW,
        "1.parametrizations.weight.original": ONE,
    }
    assert seen == {
        "0.parametrizations.weight.original1": model[0],
        "1.parametrizations.weight.original": model[1],
    }


def test_an_optimizer_steps_along_orthonormal_filters():
    model = parametrizations.weight_norm(nn.Conv2d(4, 8, 3, groups=2, bias=False))
    weight = model.parametrizations.weight.original1  # pyright: ignore
    before = weight.detach().clone()
    optimizer = OrthSGD(param_groups(model), lr=1.0, momentum=0.0)
    model(torch.randn(2, 4, 5, 5)).square().sum().backward()
    optimizer.step()
    for step in (before - weight.detach()).view(2, 4, 18):
        # scale of a row goes out of the gradient, so that rows are at right angles to the weight's
        torch.testing.assert_close(step @ step.T, torch.eye(4), atol=1e-4, rtol=1e-4)


# --- shared weights ---------------------------------------------------------------------------------


def holder(layers: dict[str, nn.Module], order: tuple[str, ...]) -> nn.Module:
    model = nn.Module()
    for name in order:
        model.add_module(name, layers[name])
    return model


def tied(*names: str):
    """Each order of registration."""
    return pytest.mark.parametrize("order", list(itertools.permutations(names)), ids=str)


@tied("head", "emb", "other")
def test_an_embedding_wins_in_every_order(order):
    layers = {
        "head": nn.Linear(4, 10, bias=False),
        "emb": nn.Embedding(10, 4),
        "other": nn.Linear(4, 10, bias=False),
    }
    layers["head"].weight = layers["other"].weight = layers["emb"].weight
    model = holder(layers, order)
    assert layouts(model) == {f"{order[0]}.weight": RAW}
    assert layouts(model, lambda *_: True) == {f"{order[0]}.weight": RAW}
    text = describe_param_groups(model)
    assert "embedding" in text
    if order[0] != "emb":
        assert "shared with emb.weight, which decides" in text


@tied("head", "emb")
@pytest.mark.parametrize(
    "make",
    [
        parametrizations.spectral_norm,
        parametrizations.weight_norm,
        lambda layer: older(nn.utils.spectral_norm, layer),
        lambda layer: older(nn.utils.weight_norm, layer),
    ],
    ids=["spectral_norm", "weight_norm", "older spectral_norm", "older weight_norm"],
)
def test_an_embedding_wins_over_a_parametrised_head(order, make):
    layers = {"head": nn.Linear(4, 10, bias=False), "emb": nn.Embedding(10, 4)}
    layers["head"].weight = layers["emb"].weight
    make(layers["head"])
    assert set(kinds(holder(layers, order)).values()) <= {RAW, EXEMPT}


@tied("encoder", "decoder")
def test_a_convolution_wins_over_the_transposed_one(order):
    layers = {"encoder": nn.Conv2d(4, 6, 3), "decoder": nn.ConvTranspose2d(6, 4, 3)}
    layers["decoder"].weight = layers["encoder"].weight
    assert kinds(holder(layers, order)) == {f"{order[0]}.weight": ONE}


@tied("conv", "emb", "plain")
def test_an_embedding_wins_over_a_convolution(order):
    """The head is a convolution over tokens of length 1, so that the table has three dimensions."""
    conv = nn.Conv1d(4, 10, 1, bias=False)
    table = nn.Embedding(10, 4)
    table.weight = conv.weight
    plain = nn.Module()
    plain.kept = conv.weight
    model = holder({"conv": conv, "emb": table, "plain": plain}, order)
    assert list(layouts(model).values()) == [RAW]


@tied("grouped", "whole")
def test_more_groups_win(order):
    layers = {"grouped": nn.Conv2d(8, 6, 3, groups=2), "whole": nn.Conv2d(4, 6, 3)}
    layers["whole"].weight = layers["grouped"].weight
    assert kinds(holder(layers, order)) == {f"{order[0]}.weight": (2, "rows")}


@tied("conv", "other")
def test_a_second_holder_of_a_weight_changes_nothing(order):
    """A wrapper that keeps a layer's weight under its own name; the weight looks like a scale."""
    conv = nn.Conv1d(4, 4, 1, groups=4, bias=False)
    other = nn.Module()
    other.gain = conv.weight
    model = holder({"conv": conv, "other": other}, order)
    assert list(kinds(model, "conv").values()) == [(4, "rows")]


@tied("qkv", "proj", "copy")
def test_attention_wins_over_a_dense_layer(order):
    layers: dict[str, nn.Module] = {
        "qkv": nn.Linear(4, 12, bias=False),
        "proj": nn.Linear(4, 4, bias=False),
        "copy": nn.Linear(4, 12, bias=False),
    }
    layers["copy"].weight = layers["qkv"].weight
    attention = holder(layers, order)
    attention.num_heads = 2  # pyright: ignore
    first = next(name for name in order if name != "proj")
    expected = {f"{first}.weight": (6, "rows"), "proj.weight": (2, "columns")}
    assert layouts(attention, attention="heads") == expected


def test_modules_registered_twice_are_listed_once():
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(4, 4, 3, groups=4)), nn.ReLU())
    model.append(model[0])
    model.add_module("originals", model[0].parametrizations.weight)  # pyright: ignore
    expected = {
        "0.parametrizations.weight.original0": EXEMPT,
        "0.parametrizations.weight.original1": (4, "rows"),
    }
    assert kinds(model) == expected
    first = nn.Module()
    first.originals = model[0].parametrizations.weight  # pyright: ignore
    first.conv = model[0]
    assert kinds(first) == {"originals.original0": EXEMPT, "originals.original1": (4, "rows")}


# --- lists and dictionaries -------------------------------------------------------------------------


class Bank(nn.Module):
    """A grouped convolution for each of several domains."""

    def __init__(self, hold: Callable[[dict[str, nn.Parameter]], nn.Module]) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.kernel_size, self.groups = 4, 6, (3, 3), 2
        shapes = {"a": (6, 2, 3, 3), "b": (6, 2, 3, 3), "bias": (6,)}
        self.held = hold({name: nn.Parameter(torch.zeros(s)) for name, s in shapes.items()})


@pytest.mark.parametrize(
    "hold",
    [
        nn.ParameterDict,
        lambda held: nn.ParameterList(held.values()),
        lambda held: nn.ModuleList([nn.ParameterDict(held)]),
        lambda held: nn.ModuleDict({"x": nn.ParameterList(held.values())}),
    ],
    ids=["dict", "list", "dict in list", "list in dict"],
)
def test_weights_in_lists_belong_to_the_module_that_holds_the_list(hold):
    model = Bank(hold)
    assert list(layouts(model, "conv").values()) == [(2, "rows"), (2, "rows"), EXEMPT]
    modules = []
    param_groups(model, lambda module, name, parameter: modules.append(module) or True)
    assert modules == [model, model]


def test_lists_of_norms_and_tables():
    class DomainNorm(nn.BatchNorm2d):
        def __init__(self) -> None:
            super().__init__(4)
            self.gains = nn.ParameterList([torch.ones(3, 4)])

    class DomainTable(nn.Embedding):
        def __init__(self) -> None:
            super().__init__(10, 4)
            self.tables = nn.ParameterDict({"x": torch.zeros(10, 4)})

    class ConvolutionWithExtras(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(4, 6, 3, groups=2, bias=False)
            self.extras = nn.ParameterDict({"weight": torch.zeros(5, 5)})

    assert layouts(ConvolutionWithExtras()) == {"weight": (2, "rows"), "extras.weight": ONE}
    model = nn.Sequential(DomainNorm(), DomainTable(), nn.ParameterList([torch.zeros(3, 4)]))
    found = layouts(model)
    assert found.pop("2.0") == ONE
    assert found == {
        "0.weight": EXEMPT,
        "0.bias": EXEMPT,
        "0.gains.0": EXEMPT,
        "1.weight": RAW,
        "1.tables.x": RAW,
    }
    assert layouts(nn.ParameterList([torch.zeros(3, 4), torch.zeros(3)])) == {"0": ONE, "1": EXEMPT}


# --- adapters ---------------------------------------------------------------------------------------


class Adapter(nn.Module):
    """A layer with a product of two matrices beside it, in the form of peft's and loralib's."""

    def __init__(self, base_layer: nn.Module, down: nn.Module, up: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.down = nn.ModuleDict({"default": down})
        self.up = nn.ModuleDict({"default": up})


@pytest.mark.parametrize("frozen", [True, False])
def test_adapters_of_layers(frozen):
    base = nn.Conv2d(4, 6, 3, groups=2, bias=False).requires_grad_(not frozen)
    down = nn.Conv2d(4, 2, 3, groups=2, bias=False)
    model = Adapter(base, down, nn.Conv2d(2, 6, 1, bias=False))
    expected = {"down.default.weight": (2, "rows"), "up.default.weight": ONE}
    base_weight = {} if frozen else {"base_layer.weight": (2, "rows")}
    assert layouts(model, "conv") == base_weight | expected


class MatrixAdapter(nn.Module):
    """An adapter that holds its two matrices itself, or in dictionaries."""

    def __init__(self, base: nn.Module, down: tuple[int, int], up: tuple[int, int]) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.zeros(down))
        self.up = nn.ParameterDict({"default": torch.zeros(up)})


def test_matrices_of_adapters():
    model = MatrixAdapter(nn.Linear(8, 6).requires_grad_(False), (2, 8), (6, 2))
    assert layouts(model, "all") == {"down": ONE, "up.default": ONE}
    assert layouts(model, "conv") == {"down": RAW, "up.default": RAW}


def test_adapters_that_extend_a_layers_class():
    """As loralib's MergedLinear, whose weight is also the fused qkv; the gain is DoRA's."""

    class Merged(nn.Linear):
        def __init__(self) -> None:
            super().__init__(8, 24, bias=False)
            self.lora_A = nn.Parameter(torch.zeros(4, 8))
            self.lora_B = nn.Parameter(torch.zeros(24, 2))
            self.gain = nn.Parameter(torch.ones(24, 1))

    model = nn.Module()
    model.num_heads = 2  # pyright: ignore
    model.qkv, model.proj = Merged(), nn.Linear(8, 8, bias=False)
    assert layouts(model, attention="heads") == {
        "qkv.weight": (6, "rows"),
        "qkv.lora_A": ONE,
        "qkv.lora_B": ONE,
        "qkv.gain": EXEMPT,
        "proj.weight": (2, "columns"),
    }

    class LowRankConv(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(4, 6, 3, groups=2, bias=False)
            self.lora_A = nn.Parameter(torch.zeros(6, 12))
            self.lora_B = nn.Parameter(torch.zeros(9, 6))

    assert layouts(LowRankConv(), "conv") == {"weight": (2, "rows"), "lora_A": RAW, "lora_B": RAW}
    assert layouts(LowRankConv(), "all") == {"weight": (2, "rows"), "lora_A": ONE, "lora_B": ONE}


def test_the_factor_of_a_table_that_is_looked_up_is_a_table():
    table = nn.Embedding(50, 8).requires_grad_(False)
    model = MatrixAdapter(table, (2, 50), (8, 2))
    assert layouts(model, "all") == {"down": RAW, "up.default": ONE}

    model.num_embeddings, model.embedding_dim = 50, 8  # pyright: ignore
    assert layouts(model, "all") == {"down": RAW, "up.default": ONE}

    class Subclass(nn.Embedding):
        def __init__(self) -> None:
            super().__init__(50, 8)
            self.down = nn.Parameter(torch.zeros(2, 50))
            self.up = nn.Parameter(torch.zeros(8, 2))

    assert layouts(Subclass(), "all") == {"weight": RAW, "down": RAW, "up": ONE}


def test_tables_of_other_classes():
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_embeddings, self.embedding_dim = 50, 8
            self.weight = nn.Parameter(torch.zeros(50, 8))

    assert layouts(nn.Sequential(Table(), nn.Linear(8, 2, bias=False))) == {
        "0.weight": RAW,
        "1.weight": ONE,
    }


def test_a_head_of_its_own_beside_an_embedding_is_a_matrix():
    model = nn.Module()
    model.emb = nn.Embedding(50, 8)
    model.head = nn.Parameter(torch.zeros(50, 8))
    assert layouts(model) == {"emb.weight": RAW, "head": ONE}


# --- attention --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [parametrizations.spectral_norm, parametrizations.orthogonal, parametrizations.weight_norm],
)
def test_parametrised_attention_keeps_its_heads(make):
    model = nn.MultiheadAttention(8, 4, bias=False)
    make(model, "in_proj_weight")
    make(model.out_proj, "weight")
    original = "original1" if make is parametrizations.weight_norm else "original"
    found = layouts(model, attention="heads")
    magnitudes = {name for name, kind in found.items() if kind == EXEMPT}
    assert {name.rpartition(".")[2] for name in magnitudes} <= {"original0"}
    assert {name: kind for name, kind in found.items() if kind != EXEMPT} == {
        f"parametrizations.in_proj_weight.{original}": (12, "rows"),
        f"out_proj.parametrizations.weight.{original}": (4, "columns"),
    }


def test_separate_attention_weights_under_a_parametrisation():
    model = nn.MultiheadAttention(8, 4, kdim=6, vdim=5, bias=False)
    for part in "qkv":
        parametrizations.weight_norm(model, f"{part}_proj_weight")
    found = layouts(model, attention="heads")
    for part in "qkv":
        assert found[f"parametrizations.{part}_proj_weight.original0"] == EXEMPT
        assert found[f"parametrizations.{part}_proj_weight.original1"] == (4, "rows")


def test_attention_whose_layers_have_adapters():
    model = nn.Module()
    model.num_heads = 2  # pyright: ignore
    for name, width in (("qkv", 24), ("proj", 8)):
        dense, down, up = nn.Linear(8, width), nn.Linear(8, 2), nn.Linear(2, width)
        setattr(model, name, Adapter(dense, down, up))
    found = {n: k for n, k in layouts(model, attention="heads").items() if k != EXEMPT}
    assert found == {
        "qkv.base_layer.weight": (6, "rows"),
        "qkv.down.default.weight": ONE,
        "qkv.up.default.weight": ONE,
        "proj.base_layer.weight": (2, "columns"),
        "proj.down.default.weight": ONE,
        "proj.up.default.weight": ONE,
    }


def test_attention_whose_layers_are_compiled_one_by_one():
    model = nn.Module()
    model.num_heads = 2  # pyright: ignore
    model.qkv = torch.compile(parametrizations.spectral_norm(nn.Linear(8, 24, bias=False)))
    model.proj = torch.compile(nn.Linear(8, 8, bias=False))
    expected = {
        "qkv._orig_mod.parametrizations.weight.original": (6, "rows"),
        "proj._orig_mod.weight": (2, "columns"),
    }
    assert layouts(model, attention="heads") == expected


def test_the_quantisable_copy_of_attention_keeps_its_heads():
    quantizable = pytest.importorskip("torch.ao.nn.quantizable")
    model = quantizable.MultiheadAttention(8, 4, bias=False)
    found = layouts(model, attention="heads")
    for part in "QKV":
        assert found[f"linear_{part}.weight"] == (4, "rows")
    assert found["out_proj.weight"] == (4, "columns")


def test_qat_layers_are_what_they_copy():
    qat = pytest.importorskip("torch.ao.nn.qat")
    quantization = pytest.importorskip("torch.ao.quantization")
    qconfig = quantization.get_default_qat_qconfig()
    conv = qat.Conv2d(4, 6, 3, groups=2, qconfig=qconfig)
    dense = qat.Linear(4, 6, qconfig=qconfig)
    model = nn.Sequential(conv, dense)
    assert kinds(model, "conv") == {"0.weight": (2, "rows"), "1.weight": RAW}
    assert kinds(model, "all") == {"0.weight": (2, "rows"), "1.weight": ONE}


# --- convolutions that are not torch's --------------------------------------------------------------


class Convolution(nn.Module):
    """A layer with the attributes of a convolution and a weight of the given shape."""

    def __init__(self, shape: tuple[int, ...], **attributes) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))
        for name, value in attributes.items():
            setattr(self, name, value)


class ConvTransposeOfOnesOwn(Convolution):
    pass


SIZES = {"in_channels": 4, "out_channels": 6, "kernel_size": (3, 3), "groups": 2}
SQUARE = {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "groups": 1}


@pytest.mark.parametrize(
    ("layer", "conv", "everything"),
    [
        (torchvision.ops.DeformConv2d(4, 4, 3, groups=4), (4, "rows"), (4, "rows")),
        (Convolution((6, 2, 3, 3), **SIZES), (2, "rows"), (2, "rows")),
        (Convolution((6, 2, 3, 3), **(SIZES | {"kernel_size": 3})), (2, "rows"), (2, "rows")),
        (Convolution((6, 2, 3, 3), **(SIZES | {"kernel_size": [3, 3]})), (2, "rows"), (2, "rows")),
        (Convolution((6, 3, 3, 2), **SIZES), (2, "rows"), (2, "rows")),  # channels last
        (Convolution((6, 2, 5), **(SIZES | {"kernel_size": 5})), (2, "rows"), (2, "rows")),
        (Convolution((6, 2, 2, 2, 2), **(SIZES | {"kernel_size": 2})), (2, "rows"), (2, "rows")),
        (Convolution((4, 3, 3, 3), **SIZES), (2, "transposed"), (2, "transposed")),
        (Convolution((4, 4, 3), **SQUARE), ONE, ONE),
        (
            Convolution((4, 4, 3), **SQUARE, transposed=True),
            (1, "transposed"),
            (1, "transposed"),
        ),
        (Convolution((4, 4, 3), **SQUARE, transposed=False, output_padding=0), ONE, ONE),
        (
            Convolution((4, 4, 3), **SQUARE, output_padding=0),
            (1, "transposed"),
            (1, "transposed"),
        ),
        (ConvTransposeOfOnesOwn((4, 4, 3), **SQUARE), (1, "transposed"), (1, "transposed")),
        (  # depthwise, groups not kept
            Convolution((4, 1, 3, 3), in_channels=4, out_channels=4, kernel_size=3),
            (4, "rows"),
            (4, "rows"),
        ),
        (Convolution((6, 4, 3, 3), kernel_size=3), ONE, ONE),
        (Convolution((6, 2, 3, 3), kernel_size=3, groups=2), (2, "rows"), (2, "rows")),
        (Convolution((6, 4, 3, 3)), RAW, ONE),  # nothing says that it convolves
        (Convolution((1, 4, 1, 1), kernel_size=1), RAW, RAW),
        (Convolution((4, 1, 1), kernel_size=3), EXEMPT, EXEMPT),  # a layer scale
        (Convolution((5, 108), **SIZES), RAW, ONE),  # five experts, timm's CondConv2d
        (Convolution((3, 3, 3, 4, 6), in_channels=4, out_channels=6, kernel_size=3), RAW, RAW),
    ],
    ids=str,
)
def test_layers_that_convolve(layer, conv, everything):
    assert kinds(layer, "conv") == {"weight": conv}
    assert kinds(layer, "all") == {"weight": everything}
    OrthSGD(param_groups(layer), lr=0.1)  # the layout divides the weight


def test_gains_of_convolutions_are_scales():
    layers = pytest.importorskip("timm.layers")
    model = layers.ScaledStdConv2d(4, 6, 3, groups=2)
    assert kinds(model, "all") == {"weight": (2, "rows"), "gain": EXEMPT}
    assert kinds(layers.StdConv2d(4, 6, 3, groups=2), "conv") == {"weight": (2, "rows")}


class Scales(nn.Module):
    """Parameters of one layer in shapes of its images (batch, channels, ...), and tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(1, 8, 1, 1))
        self.magnitude = nn.Parameter(torch.zeros(1, 8, 1))
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.positions = nn.Parameter(torch.zeros(1, 5, 8))


def test_scales_of_images_are_scales_and_tokens_are_not():
    expected = {"beta": EXEMPT, "magnitude": EXEMPT, "token": RAW, "positions": RAW}
    assert kinds(Scales(), "all") == expected
    assert kinds(Scales(), "conv") == expected


def test_a_transposed_view_of_a_table_is_the_table():
    table, head = nn.Embedding(10, 4), nn.Linear(10, 4, bias=False)
    head.weight = nn.Parameter(table.weight.detach().t())
    assert head.weight.data_ptr() == table.weight.data_ptr()
    for model in (nn.Sequential(table, head), nn.Sequential(head, table)):
        assert set(kinds(model, "all").values()) == {RAW}
    assert "shared with 1.weight, which decides" in describe_param_groups(
        nn.Sequential(head, table)
    )


def test_a_dense_layer_in_the_memory_of_a_convolution():
    dense, convolution = nn.Linear(4, 6, bias=False), nn.Conv1d(4, 6, 1, bias=False)
    convolution.weight = nn.Parameter(dense.weight.detach().unsqueeze(2))
    for model in (nn.Sequential(dense, convolution), nn.Sequential(convolution, dense)):
        assert set(kinds(model, "conv").values()) == {ONE}
    transposed = nn.ConvTranspose1d(6, 4, 1, bias=False)
    transposed.weight = nn.Parameter(dense.weight.detach().unsqueeze(2))
    model = nn.Sequential(dense, transposed)
    # its matrix is the transpose, so it does not decide over the dense layer's
    assert kinds(model, "conv") == {"0.weight": RAW, "1.weight": (1, "transposed")}


def test_channels_cut_away_leave_a_convolution():
    model = nn.Conv2d(4, 6, 3)
    model.weight = nn.Parameter(model.weight[:4].detach())
    assert kinds(model, "conv") == {"weight": ONE}


# --- wrapped and lazy models ------------------------------------------------------------------------


def test_compiled_models_and_parallel_ones():
    layer = parametrizations.weight_norm(nn.Conv2d(4, 4, 3, groups=4, bias=False))
    for wrap, prefix in ((torch.compile, "_orig_mod"), (nn.DataParallel, "module")):
        assert layouts(wrap(layer)) == {  # pyright: ignore
            f"{prefix}.parametrizations.weight.original0": EXEMPT,
            f"{prefix}.parametrizations.weight.original1": (4, "rows"),
        }
    both = nn.DataParallel(torch.compile(nn.MultiheadAttention(8, 4, bias=False)))  # pyright: ignore
    assert layouts(both, attention="heads") == {
        "module._orig_mod.in_proj_weight": (12, "rows"),
        "module._orig_mod.out_proj.weight": (4, "columns"),
    }


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_scripted_layers_are_known_by_their_attributes():
    layers = (
        nn.Conv2d(4, 4, 3, groups=4),
        nn.ConvTranspose2d(4, 4, 3),
        nn.Linear(4, 4),
        nn.Embedding(5, 4),
        nn.LayerNorm((3, 4)),
    )
    names = [f"{i}.weight" for i in range(len(layers))]
    conv = [(4, "rows"), (1, "transposed"), RAW, RAW, EXEMPT]
    everything = [(4, "rows"), (1, "transposed"), ONE, RAW, EXEMPT]
    model = torch.jit.script(nn.Sequential(*layers))
    assert kinds(model, "conv") == dict(zip(names, conv, strict=True))
    assert kinds(model, "all") == dict(zip(names, everything, strict=True))


def test_function_is_given_the_layer_inside_a_compiled_one():
    layer = parametrizations.spectral_norm(nn.Conv2d(4, 4, 3, groups=4))
    seen = []
    param_groups(torch.compile(layer), lambda module, *_: seen.append(module) or True)  # pyright: ignore
    assert seen == [layer]


def test_modules_that_know_their_parent():
    model = nn.Module()
    model.layer = nn.Linear(3, 4, bias=False)
    model.layer.parent = model
    assert layouts(model) == {"layer.weight": ONE}


def test_lazy_models_before_and_after_their_first_batch():
    model = nn.Sequential(
        nn.LazyConv2d(6, 3, groups=2), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(3)
    )
    for function in (param_groups, describe_param_groups):
        with pytest.raises(ValueError, match=r"0\.weight.*run a batch through"):
            function(model)
    model(torch.randn(2, 4, 3, 3))
    assert kinds(model) == {"0.weight": (2, "rows"), "1.weight": EXEMPT, "3.weight": ONE}
    parametrizations.spectral_norm(model[0])
    assert kinds(model)["0.parametrizations.weight.original"] == (2, "rows")


# --- reasons ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "name", "reason"),
    [
        (
            with_chain(nn.Conv2d(4, 4, 3, groups=4)),
            "parametrizations.weight.original",
            "depthwise convolution, 4 matrices of 1 x 9: only normalised; "
            "the weight of Conv2d before Symmetric and SpectralNorm",
        ),
        (
            parametrizations.weight_norm(nn.Linear(4, 3)),
            "parametrizations.weight.original0",
            "magnitude; WeightNorm makes the weight of Linear from it",
        ),
        (
            older(nn.utils.weight_norm, nn.Linear(4, 3)),
            "weight_v",
            "dense, 1 matrix; the weight of Linear before WeightNorm",
        ),
        (
            parametrizations.spectral_norm(nn.MultiheadAttention(8, 2), "in_proj_weight"),
            "parametrizations.in_proj_weight.original",
            "fused qkv, 1 matrix; attention='heads' splits it; "
            "the in_proj_weight of MultiheadAttention before SpectralNorm",
        ),
        (
            Convolution((3, 3, 3, 4, 6), in_channels=4, out_channels=6, kernel_size=3),
            "weight",
            "convolution weight in an unknown order of dimensions",
        ),
    ],
    ids=["chain", "magnitude", "older", "attention", "reordered"],
)
def test_reasons_name_the_parametrisation_and_the_layer(model, name, reason):
    (line,) = (x for x in describe_param_groups(model).splitlines() if x.startswith(f"{name} "))
    assert line.endswith(f"  {reason}")
    assert "Parametri" not in line.replace("parametri", "")
