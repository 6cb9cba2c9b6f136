import re

import pytest
import timm
import torch
import torchvision
from torch import nn

from sslortho.optim import describe_param_groups, param_groups
from sslortho.optim.components import to_matrices
from sslortho.optim.grouping import Attention


class Mixed(nn.Module):
    """Layers and parameters that the networks below lack."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(4, 6, 3, groups=2)
        self.depthwise = nn.Conv1d(4, 8, 3, groups=4)
        self.transposed = nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False)
        self.table = nn.Embedding(10, 4)
        self.dense = nn.Linear(4, 10)
        self.same_table = nn.Linear(4, 10, bias=False)
        self.same_table.weight = self.table.weight
        self.again = self.dense
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.attention = nn.MultiheadAttention(6, 3, kdim=4, vdim=4)
        self.tokens = nn.Parameter(torch.zeros(2, 4))
        self.gamma = nn.Parameter(torch.ones(4, 1, 1))
        self.one_column = nn.Linear(1, 7, bias=False)
        self.one_row = nn.Linear(7, 1, bias=False)
        self.temperature = nn.Parameter(torch.zeros(()))


MODELS = {
    "mixed": Mixed,
    "resnet18": torchvision.models.resnet18,
    "convnext_tiny": torchvision.models.convnext_tiny,
    "vit_b_16": torchvision.models.vit_b_16,
    "swin_t": torchvision.models.swin_t,
    "timm vit": lambda: timm.create_model("vit_tiny_patch16_224", depth=2),
    "timm convnext": lambda: timm.create_model("convnext_atto"),
    "lstm": lambda: nn.LSTM(3, 5, bidirectional=True),
}
SPLIT = ("mixed", "vit_b_16", "swin_t", "timm vit")


def wide(module: nn.Module, name: str, parameter: torch.Tensor) -> bool:
    return parameter.shape[0] < parameter[0].numel() and "head" not in name


@pytest.fixture(scope="module", params=list(MODELS))
def named_model(request) -> tuple[str, nn.Module]:
    with torch.device("meta"):
        return request.param, MODELS[request.param]()


def parse(text: str) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """The lines of both tables by their first cell, without the heads."""
    parts = (
        [re.split(" {2,}", line.strip()) for line in part.splitlines()]
        for part in text.split("\n\n")
    )
    first, second = ({name: tuple(rest) for name, *rest in rows[1:]} for rows in parts)
    return first, second


def check_agreement(model: nn.Module, orth, attention: Attention) -> None:
    lines, totals = parse(describe_param_groups(model, orth, attention=attention))
    groups = param_groups(model, orth, attention=attention, weight_decay=0.5)
    everything = sum(parameter.numel() for parameter in model.parameters())
    described = {name for name, cells in lines.items() if cells[3] != "-"}
    listed = [name for group in groups for name in group["names"]]
    aliases = {name for name in described if lines[name][4].startswith("the same as")}
    assert sorted(described - aliases) == sorted(listed)
    for group in groups:
        size = 0
        for name, parameter in zip(group["names"], group["params"], strict=True):
            shape, module, matrices, decay, why = lines[name]
            assert shape == (" x ".join(map(str, parameter.shape)) or "scalar")
            assert module == type(model.get_submodule(name.rpartition(".")[0])).__name__
            layout = group["orth_components"], group["orth_view"]
            found = to_matrices(parameter, *layout).shape if group["orth"] else ()
            assert matrices == (" x ".join(map(str, found)) or "-")
            assert decay == ("yes" if group["weight_decay"] else "no")
            assert why
            size += parameter.numel()
        share = f"{100 * size / everything:.1f} %"
        assert totals.pop(group["name"]) == (str(len(group["params"])), f"{size:,}", share)
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    assert set(totals) == ({"left out: frozen"} if frozen else set())
    assert set(lines) == {name for name, _ in model.named_parameters(remove_duplicate=False)}


def test_says_what_param_groups_does(named_model):
    name, model = named_model
    for orth in ("conv", "all", "none", wide):
        check_agreement(model, orth, "whole")
    if name in SPLIT:
        for orth in ("all", wide):
            check_agreement(model, orth, "heads")


def reasons(orth, attention: Attention) -> dict[str, str]:
    with torch.device("meta"):
        lines, _ = parse(describe_param_groups(Mixed(), orth, attention=attention))
    return {name.removesuffix(".weight"): cells[-1] for name, cells in lines.items()}


SPLITS = "attention='heads' splits it"


@pytest.mark.parametrize(
    ("orth", "attention", "expected"),
    [
        (
            "all",
            "whole",
            {
                "grouped": "grouped convolution, 2 matrices of 3 x 18",
                "depthwise": "depthwise convolution, 4 matrices of 2 x 3",
                "transposed": "grouped transposed convolution, 2 matrices of 3 x 18",
                "table": "embedding",
                "dense": "dense, 1 matrix",
                "dense.bias": "bias, scale or other vector",
                "attention.q_proj_weight": f"q, k or v, 1 matrix; {SPLITS}",
                "attention.out_proj": f"attention output, 1 matrix; {SPLITS}",
                "tokens": "other weight, 1 matrix",
                "gamma": "a vector in the shape of a scale",
                "one_column": "dense, 1 matrix: only normalised",
                "one_row": "first dimension is 1",
                "temperature": "bias, scale or other vector",
                "frozen": "left out: frozen",
                "same_table": "the same as table.weight",
                "again": "the same as dense.weight",
                "again.bias": "the same as dense.bias",
            },
        ),
        (
            "conv",
            "whole",
            {
                "grouped": "grouped convolution, 2 matrices of 3 x 18",
                "dense": "orth='conv' leaves all but convolutions raw",
                "table": "embedding",
            },
        ),
        ("none", "whole", {"grouped": "orth='none' leaves all raw"}),
        (
            lambda module, name, parameter: name == "one_row.weight",
            "whole",
            {
                "one_row": "your function said yes: dense, 1 matrix: only normalised",
                "grouped": "your function said no",
                "gamma": "a vector in the shape of a scale",
            },
        ),
        (
            "all",
            "heads",
            {
                "attention.k_proj_weight": "q, k or v, 3 matrices of 2 x 4",
                "attention.out_proj": "attention output, 3 matrices of 6 x 2",
            },
        ),
    ],
    ids=["all", "conv", "none", "function", "heads"],
)
def test_reasons(orth, attention, expected):
    found = reasons(orth, attention)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("attention", "expected"),
    [
        ("whole", f"fused qkv, 1 matrix; {SPLITS}"),
        ("heads", "fused qkv, 6 matrices of 4 x 8"),
    ],
)
def test_fused_attention(attention, expected):
    lines, _ = parse(describe_param_groups(nn.MultiheadAttention(8, 2), attention=attention))
    assert lines["in_proj_weight"][-1] == expected


def test_table_is_aligned_and_names_are_whole():
    with torch.device("meta"):
        table, totals = describe_param_groups(Mixed()).split("\n\n")
    head, *lines = table.splitlines()
    starts = [head.index(word) for word in ("shape", "module", "matrices", "decay, LARS", "why")]
    for line in lines:
        assert all(line[start - 2 : start] == "  " and line[start] != " " for start in starts)
    head, *lines = totals.splitlines()
    assert {len(line) for line in lines} == {len(head)}  # numbers end together
    names = [line.split()[0] for line in table.splitlines()[1:]]
    assert names == [name for name, _ in Mixed().named_parameters(remove_duplicate=False)]


def test_frozen_and_shared_parameters_count_once():
    _, totals = parse(describe_param_groups(Mixed()))
    assert totals["left out: frozen"][:2] == ("2", "12")
    assert totals["weights"][:2] == ("2", "47")  # the table that two layers share, and one_row
    shares = [float(share.rstrip(" %")) for *_, share in totals.values()]
    assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (nn.Linear(2, 2), {"orth": "convs"}, "orth='convs' is not"),
        (nn.Linear(2, 2), {"attention": "heads"}, "no attention layer"),
        (nn.LazyLinear(2), {}, "lazy parameters"),
        (nn.Linear(2, 2).requires_grad_(False), {}, "no trainable parameters"),
        ([], {}, r"model=list must be a torch\.nn"),
    ],
    ids=str,
)
def test_refuses_what_param_groups_does(model, options, message):
    for function in (describe_param_groups, param_groups):
        with pytest.raises(ValueError, match=message):
            function(model, **options)
