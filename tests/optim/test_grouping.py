from collections import Counter

import pytest
import timm
import torch
import torchvision
from torch import nn

from sslortho.optim import OrthSGD, param_groups
from sslortho.optim.components import to_matrices
from sslortho.optim.grouping import matrix_shape

MODELS = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "vit_tiny_patch16_224": lambda: timm.create_model("vit_tiny_patch16_224", num_classes=10),
    "convnext_atto": lambda: timm.create_model("convnext_atto", num_classes=10),
}


@pytest.fixture(scope="module", params=list(MODELS))
def model(request):
    return MODELS[request.param]()


def names_by_kind(groups) -> dict[str, set[str]]:
    """Names of the parameters of all groups called so, whatever the number of their components."""
    kinds: dict[str, set[str]] = {}
    for group in groups:
        kinds.setdefault(group["name"].split(",")[0], set()).update(group["names"])
    return kinds


@pytest.mark.parametrize("orth", ["conv", "all", "none", lambda module, name, parameter: False])
def test_every_trainable_parameter_is_in_one_group_under_its_name(model, orth):
    groups = param_groups(model, orth)
    counts = Counter(id(p) for group in groups for p in group["params"])
    assert counts == Counter(id(p) for p in model.parameters())
    named = dict(model.named_parameters())
    for group in groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            assert named[name] is parameter


@pytest.mark.parametrize("orth", ["conv", "all"])
def test_optimizers_take_the_groups(model, orth):
    optimizer = OrthSGD(param_groups(model, orth, weight_decay=1e-4), lr=0.1)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(
        list(model.parameters())
    )


@pytest.mark.parametrize("orth", ["conv", "all", "none"])
def test_vectors_are_exempt_whatever_the_choice(model, orth):
    last = param_groups(model, orth)[-1]
    assert last["name"] == "biases and norms"
    assert (last["orth"], last["weight_decay"], last["trust_coefficient"]) == (False, 0.0, None)
    vectors = {name for name, p in model.named_parameters() if p.ndim <= 1}
    assert set(last["names"]) == vectors  # these models have no norm of more dimensions


@pytest.mark.parametrize(("orth", "kinds"), [("conv", nn.Conv2d), ("all", (nn.Conv2d, nn.Linear))])
def test_conv_and_all_choose_by_module(model, orth, kinds):
    expected = {
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, kinds)
    }
    assert names_by_kind(param_groups(model, orth))["orthonormalised weights"] == expected


def test_none_leaves_all_raw(model):
    assert not any(group["orth"] for group in param_groups(model, "none"))


def test_depthwise_convolutions_have_one_matrix_a_channel():
    model = MODELS["convnext_atto"]()
    depthwise = {
        f"{name}.weight": module.groups
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups > 1
    }
    assert len(depthwise) == 12  # one a block: depths 2, 2, 6, 2
    found = {
        name: group["orth_components"]
        for group in param_groups(model, "conv")
        for name in group["names"]
        if group["orth_components"] > 1
    }
    assert found == depthwise


@pytest.mark.parametrize(
    "conv", [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d]
)
def test_convolutions_of_every_dimension(conv):
    (group,) = param_groups(conv(6, 4, 3, groups=2, bias=False), "conv")
    assert (group["orth"], group["orth_components"]) == (True, 2)


def test_function_chooses_matrices_by_module_name_and_parameter():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, 2))
    seen = []

    def choose(module, name, parameter):
        seen.append((type(module), name, parameter.shape))
        return name == "2.weight"

    kinds = names_by_kind(param_groups(model, choose))
    assert kinds["orthonormalised weights"] == {"2.weight"}
    assert kinds["weights"] == {"0.weight", "3.weight"}
    assert seen == [
        (nn.Conv2d, "0.weight", (4, 3, 3, 3)),
        (nn.Linear, "2.weight", (5, 16)),
        (nn.Linear, "3.weight", (2, 5)),
    ]


class Mixed(nn.Module):
    """One of everything that the table of sslortho.optim.grouping names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.dense = nn.Linear(4, 6)
        self.table = nn.Embedding(10, 4)
        self.bag = nn.EmbeddingBag(10, 4)
        self.batch_norm = nn.BatchNorm2d(4)
        self.layer_norm = nn.LayerNorm((3, 5))
        self.group_norm = nn.GroupNorm(2, 4)
        self.rms_norm = nn.RMSNorm((2, 3))
        self.instance_norm = nn.InstanceNorm2d(4, affine=True)
        self.positions = nn.Parameter(torch.zeros(1, 9, 4))
        self.tokens = nn.Parameter(torch.zeros(2, 4))
        self.temperature = nn.Parameter(torch.zeros(()))
        self.frozen = nn.Linear(3, 3).requires_grad_(False)


@pytest.mark.parametrize(
    ("orth", "orthonormalised"),
    [
        ("conv", {"conv.weight"}),
        ("all", {"conv.weight", "dense.weight", "tokens"}),
        ("none", set()),
        (lambda *_: True, {"conv.weight", "dense.weight", "tokens", "positions"}),
    ],
    ids=["conv", "all", "none", "function"],
)
def test_table_of_kinds(orth, orthonormalised):
    kinds = names_by_kind(param_groups(Mixed(), orth))
    matrices = {"conv.weight", "dense.weight", "table.weight", "bag.weight", "positions", "tokens"}
    norms = ("batch_norm", "layer_norm", "group_norm", "rms_norm", "instance_norm")
    vectors = {f"{norm}.{kind}" for norm in norms for kind in ("weight", "bias")}
    vectors -= {"rms_norm.bias"}  # it has none
    assert kinds.get("orthonormalised weights", set()) == orthonormalised
    assert kinds["weights"] == matrices - orthonormalised
    assert kinds["biases and norms"] == vectors | {"conv.bias", "dense.bias", "temperature"}


def test_transposed_convolutions_have_output_channels_as_components():
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.Conv2d(6, 6, 3, groups=2))
    layouts = {
        name: (group["orth_components"], group["orth_view"])
        for group in param_groups(model, orth="conv")
        for name in group["names"]
    }
    assert layouts["0.weight"] == (2, "transposed")
    assert layouts["1.weight"] == (2, "rows")


@pytest.mark.parametrize("orth", ["all", lambda *_: True], ids=["all", "function"])
def test_layer_scales_of_any_shape_are_exempt(orth):
    """timm's are vectors, torchvision's (channels, 1, 1); a convolution of that shape is none."""
    with torch.device("meta"):
        model = torchvision.models.convnext_tiny()
        model.point = nn.Conv1d(4, 4, 1, groups=4, bias=False)
    kinds = names_by_kind(param_groups(model, orth))
    scales = {name for name, _ in model.named_parameters() if name.endswith("layer_scale")}
    assert len(scales) == 18
    assert scales <= kinds["biases and norms"]
    assert "point.weight" in kinds["orthonormalised weights"]


def test_function_leaves_out_heads_and_depthwise_filters():
    """As the docstring of param_groups does."""

    def choose(module, name, parameter):
        return parameter.shape[0] > 1 and not (
            name.startswith("head.") or getattr(module, "groups", 1) > 1
        )

    model = MODELS["convnext_atto"]()
    kinds = names_by_kind(param_groups(model, choose))
    raw = {name for name in kinds["weights"] if not name.endswith("conv_dw.weight")}
    assert raw == {"head.fc.weight"}
    assert len(kinds["weights"]) == 13
    everything = names_by_kind(param_groups(model, "all"))["orthonormalised weights"]
    assert kinds["orthonormalised weights"] == everything - kinds["weights"]
    vit = MODELS["vit_tiny_patch16_224"]()
    kinds = names_by_kind(param_groups(vit, choose))
    assert kinds["weights"] == {"cls_token", "pos_embed", "head.weight"}
    everything = names_by_kind(param_groups(vit, "all"))["orthonormalised weights"]
    assert kinds["orthonormalised weights"] == everything - {"head.weight"}


@pytest.mark.parametrize(
    ("shape", "components", "view"),
    [
        ((6, 4), 1, "rows"),
        ((6, 4), 3, "rows"),
        ((6, 4), 2, "columns"),
        ((6, 2, 3, 5), 2, "rows"),
        ((6, 2, 3, 5), 5, "columns"),
        ((6, 2, 3, 5), 3, "transposed"),
        ((4, 1, 3), 4, "rows"),
    ],
    ids=str,
)
def test_matrix_shape_is_that_of_the_matrices(shape, components, view):
    matrices = to_matrices(torch.empty(shape), components, view)
    assert matrix_shape(torch.Size(shape), components, view) == matrices.shape


def heads_by_name(model: nn.Module) -> dict[str, tuple[int, str]]:
    return {
        name: (group["orth_components"], group["orth_view"])
        for group in param_groups(model, attention="heads")
        if group["orth"]
        for name in group["names"]
    }


def test_fused_attention_in_three_matrices():
    model = nn.TransformerEncoderLayer(8, 2, dim_feedforward=12)
    layouts = {
        name: (group["orth_components"], group["orth_view"])
        for group in param_groups(model, attention="qkv")
        if group["orth"]
        for name in group["names"]
    }
    assert layouts.pop("self_attn.in_proj_weight") == (3, "rows")
    assert set(layouts.values()) == {(1, "rows")}
    with pytest.raises(ValueError, match="attention='qkv' has no effect"):
        param_groups(nn.Linear(2, 2), attention="qkv")


def test_parameters_named_in_no_decay_are_exempt():
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=5)
    names = model.no_weight_decay()
    assert "pos_embed" in names
    *others, exempt = param_groups(
        model, weight_decay=0.1, no_decay=names & {"pos_embed", "cls_token"}
    )
    assert {"pos_embed", "cls_token", "norm.bias"} <= set(exempt["names"])
    assert exempt["weight_decay"] == 0
    assert not any("pos_embed" in group["names"] for group in others)
    with pytest.raises(ValueError, match=r"no_decay: 'pos_embd' is no .*did you mean pos_embed"):
        param_groups(model, no_decay=["pos_embd"])


def test_heads_of_timms_attention():
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=5)
    layouts = heads_by_name(model)
    for block in (0, 1):
        assert layouts[f"blocks.{block}.attn.qkv.weight"] == (9, "rows")
        assert layouts[f"blocks.{block}.attn.proj.weight"] == (3, "columns")
        assert layouts[f"blocks.{block}.mlp.fc1.weight"] == (1, "rows")
    assert layouts["patch_embed.proj.weight"] == (1, "rows")  # a convolution called proj


@pytest.mark.slow
def test_attention_of_other_forms_is_left_whole():
    """Heads whose values are wider than their keys; queries that are not in the same weight."""
    timm = pytest.importorskip("timm")
    with pytest.raises(ValueError, match="no attention layer"):
        param_groups(timm.create_model("efficientformer_l1"), attention="heads")
    model = timm.create_model("gcvit_xxtiny")
    split = set()
    for group in OrthSGD(param_groups(model, attention="heads"), lr=0.1).param_groups:
        if group["orth_view"] == "rows" and group["orth_components"] > 1:
            split |= {p.shape[0] // p.shape[1] for p in group["params"] if p.ndim == 2}
    assert split == {3}


@pytest.mark.parametrize("width", [None, 6], ids=["fused", "separate"])
def test_heads_of_torchs_attention(width):
    attention = nn.MultiheadAttention(8, 4, kdim=width, vdim=width)
    layouts = heads_by_name(attention)
    assert layouts["out_proj.weight"] == (4, "columns")
    if width is None:
        assert layouts["in_proj_weight"] == (12, "rows")
    else:
        for name in "qkv":
            assert layouts[f"{name}_proj_weight"] == (4, "rows")
    OrthSGD(param_groups(attention, attention="heads"), lr=0.1)


def test_whole_attention_is_the_default():
    groups = param_groups(nn.MultiheadAttention(8, 4))
    assert {group["orth_components"] for group in groups} == {1}


def test_shared_parameters_are_listed_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU())
    model[1].weight = model[0].weight
    model.append(model[0])
    names = [name for group in param_groups(model) for name in group["names"]]
    assert sorted(names) == ["0.bias", "0.weight", "1.bias"]


def test_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].requires_grad_(False)
    names = [name for group in param_groups(model) for name in group["names"]]
    assert sorted(names) == ["1.bias", "1.weight"]


@pytest.mark.parametrize(
    ("options", "weights", "vectors"),
    [
        ({}, {}, {"weight_decay": 0.0}),
        ({"lr": 0.2}, {"lr": 0.2}, {"lr": 0.2, "weight_decay": 0.0}),
        ({"lr_biases": 0.01}, {}, {"lr": 0.01, "weight_decay": 0.0}),
        (
            {"lr": 0.2, "lr_biases": 0.0048, "weight_decay": 1e-4},
            {"lr": 0.2, "weight_decay": 1e-4},
            {"lr": 0.0048, "weight_decay": 0.0},
        ),
        (
            {"lr": 0.2, "lr_biases": 0.0, "weight_decay": 0.0},
            {"lr": 0.2, "weight_decay": 0.0},
            {"lr": 0.0, "weight_decay": 0.0},
        ),
    ],
    ids=str,
)
def test_rates_and_decay(options, weights, vectors):
    groups = param_groups(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 2)), "conv", **options)
    assert [group["name"] for group in groups] == [
        "orthonormalised weights",
        "weights",
        "biases and norms",
    ]
    given = [{k: group[k] for k in ("lr", "weight_decay") if k in group} for group in groups]
    assert given == [weights, weights, vectors]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: param_groups(nn.Linear(2, 2), "convs"),
            "orth='convs' is not 'conv', 'all', 'none'",
        ),
        (lambda: param_groups(nn.Linear(2, 2), True), "orth=True"),
        (
            lambda: param_groups(nn.Linear(2, 2), attention="head"),
            "attention='head' is not 'whole'",
        ),
        (
            lambda: param_groups(nn.Linear(2, 2), attention="heads"),
            "attention='heads' has no effect: Linear has no attention layer",
        ),
        (
            lambda: param_groups(nn.MultiheadAttention(4, 2), "conv", attention="heads"),
            "attention='heads' has no effect with orth='conv'",
        ),
        (lambda: param_groups(nn.ReLU()), "ReLU has no trainable parameters"),
        (
            lambda: param_groups(nn.Linear(2, 2).requires_grad_(False)),
            "Linear has no trainable parameters",
        ),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
