"""Muon: step for step torch's and KellerJordan's where they go, and right on the layers where they do not."""

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.matrices import nearest_orthonormal
from helpers.torch_muon import TORCHS, skip_without_muon
from torch import nn

from sslortho.optim import Muon, orthogonal, param_groups
from sslortho.optim.monitor import measure_gradients, state_bytes

STEPS = 4
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def draw(shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def parameters(shapes, dtype=torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(draw(shape, i, dtype)) for i, shape in enumerate(shapes)]


def set_gradients(params, step: int, scale=1e-2) -> None:
    for i, p in enumerate(params):
        p.grad = draw(p.shape, 100 * step + i + 50).mul(scale).to(p.dtype)


def train(optimizer, params, steps=STEPS, scale=1e-2) -> None:
    for step in range(steps):
        set_gradients(params, step, scale)
        optimizer.step()


# --- torch.optim.Muon -------------------------------------------------------------------------------

MATRICES = [(4, 6), (6, 4), (5, 5), (12, 30), (1, 7), (7, 1)]


def compare_with_torch(polar, atol, scale="muon", foreach=True, **options):
    skip_without_muon(scale)
    ours, theirs = parameters(MATRICES), parameters(MATRICES)
    optimizer = Muon(ours, polar=polar, scale=scale, foreach=foreach, **options)
    train(optimizer, ours)
    train(torch.optim.Muon(theirs, adjust_lr_fn=TORCHS[scale], **options), theirs)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=atol)


OPTIONS = [
    {"lr": 0.02, "weight_decay": 0.0},
    {"lr": 0.1, "weight_decay": 0.3, "momentum": 0.8, "nesterov": False},
    {"lr": 0.1, "weight_decay": 0.0, "momentum": 0.0, "nesterov": False},
]


@pytest.mark.parametrize("scale", TORCHS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_steps_are_torchs_in_float32(options, scale, monkeypatch):
    """torch's own code, which takes bfloat16, with that one rounding left out."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    for foreach in (True, False):
        compare_with_torch("muon", 1e-5, scale, foreach, **options)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_steps_are_torchs_in_bfloat16(options):
    # two units in the last place of bfloat16 at one, a step
    compare_with_torch("muon_bf16", options["lr"] * STEPS * 2**-6, **options)


# --- KellerJordan/Muon ------------------------------------------------------------------------------


def jordans_steps(matrices, others, *, lr, momentum, weight_decay, adam) -> None:
    """Its MuonWithAuxAdam, for gradients of `set_gradients`: a literal reading, in the tensors' precision."""
    buffers = [torch.zeros_like(p) for p in matrices]
    firsts, seconds = ([torch.zeros_like(p) for p in others] for _ in range(2))
    params = [*matrices, *others]
    for step in range(STEPS):
        set_gradients(params, step, LARGE)
        for p, buffer in zip(matrices, buffers, strict=True):
            buffer.copy_(momentum * buffer + (1 - momentum) * p.grad)
            x = ((1 - momentum) * p.grad + momentum * buffer).reshape(len(p), -1)
            tall = x.shape[0] > x.shape[1]
            x = (x.T if tall else x) / (x.norm() + 1e-7)
            a, b, c = COEFFICIENTS
            for _ in range(5):
                gram = x @ x.T
                x = a * x + (b * gram + c * gram @ gram) @ x
            x = x.T if tall else x
            p.data *= 1 - lr * weight_decay
            p.data -= lr * max(1, p.shape[-2] / p.shape[-1]) ** 0.5 * x.reshape(p.shape)
        for p, first, second in zip(others, firsts, seconds, strict=True):
            first.copy_(adam["betas"][0] * first + (1 - adam["betas"][0]) * p.grad)
            second.copy_(adam["betas"][1] * second + (1 - adam["betas"][1]) * p.grad**2)
            mean = first / (1 - adam["betas"][0] ** (step + 1))
            square = second / (1 - adam["betas"][1] ** (step + 1))
            p.data *= 1 - adam["lr"] * weight_decay
            p.data -= adam["lr"] * mean / (square.sqrt() + adam["eps"])


JORDANS_MATRICES = [(4, 6), (6, 4), (4, 2, 3, 3)]
OTHERS = [(5,), (), (4, 1, 1)]
LARGE = 1e4
"""Scale of gradients beside which the 1e-7 that he adds to their norm is rounding."""
ADAM = {"lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-10}


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("foreach", [True, False])
def test_steps_are_jordans_with_his_defaults(foreach, weight_decay):
    sides = [parameters(JORDANS_MATRICES, torch.float64) for _ in range(2)]
    rest = [parameters(OTHERS, torch.float64) for _ in range(2)]
    groups = [{"params": sides[0]}, {"params": rest[0], "orth": False}]
    optimizer = Muon(groups, polar="muon", foreach=foreach, weight_decay=weight_decay)
    train(optimizer, [*sides[0], *rest[0]], scale=LARGE)
    jordans_steps(sides[1], rest[1], lr=0.02, momentum=0.95, weight_decay=weight_decay, adam=ADAM)
    for p, q in zip(sides[0] + rest[0], sides[1] + rest[1], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("foreach", [True, False])
def test_the_rest_is_stepped_by_torchs_adamw(foreach):
    ours, theirs = parameters([*OTHERS, (6, 3)]), parameters([*OTHERS, (6, 3)])
    options = {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.1}
    train(Muon([{"params": ours, "orth": False, **options}], foreach=foreach), ours)
    train(torch.optim.AdamW(theirs, foreach=foreach, **options), theirs)
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)


def test_coupled_decay_of_the_rest_is_torchs_adam():
    ours, theirs = parameters(OTHERS), parameters(OTHERS)
    options = {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.1}
    group = {"params": ours, "orth": False, **options}
    train(Muon([group], decoupled_weight_decay=False), ours)
    train(torch.optim.Adam(theirs, foreach=True, **options), theirs)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q)


# --- Layers -----------------------------------------------------------------------------------------


class Every(nn.Module):
    """A layer of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(6, 4)
        self.conv = nn.Conv2d(2, 24, 3)  # more filters than entries
        self.grouped = nn.Conv2d(4, 24, 3, groups=2)
        self.depthwise = nn.Conv2d(5, 5, 3, groups=5)
        self.transposed = nn.ConvTranspose2d(4, 6, 2, groups=2)
        self.deep = nn.Conv3d(2, 3, 2)
        self.norm = nn.LayerNorm(4)
        self.layer_scale = nn.Parameter(torch.ones(4, 1, 1))
        self.embedding = nn.Embedding(9, 4)
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.embedding.weight


def matrices_by_hand() -> dict[str, tuple[Callable, int, int]]:
    """For each weight: its matrices as a function of a tensor, their rows and columns."""
    return {
        "dense.weight": (lambda t: [t], 4, 6),
        "conv.weight": (lambda t: [t.reshape(24, 18)], 24, 18),
        "grouped.weight": (lambda t: [t[:12].reshape(12, 18), t[12:].reshape(12, 18)], 12, 18),
        "depthwise.weight": (lambda t: [t[i].reshape(1, 9) for i in range(5)], 1, 9),
        "transposed.weight": (
            lambda t: [part.transpose(0, 1).reshape(3, 8) for part in (t[:2], t[2:])], 3, 8,
        ),
        "deep.weight": (lambda t: [t.reshape(3, 16)], 3, 16),
    }  # fmt: skip


LENGTHS = {
    "none": lambda rows, columns: 1,
    "muon": lambda rows, columns: max(1, rows / columns) ** 0.5,
    "moonlight": lambda rows, columns: 0.2 * max(rows, columns) ** 0.5,
    "spectral": lambda rows, columns: (rows / columns) ** 0.5,
}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("scale", LENGTHS)
def test_every_layer_steps_by_its_own_matrices(scale, memory_format):
    torch.manual_seed(0)
    model = Every().double()
    for module in (model.conv, model.grouped, model.depthwise, model.transposed):
        module.to(memory_format=memory_format)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = Muon(param_groups(model), lr=0.1, adamw_lr=0.003, scale=scale)
    set_gradients(list(model.parameters()), 0)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    optimizer.step()
    layers = matrices_by_hand()
    for name, p in model.named_parameters():
        moved = before[name] - p.detach()
        if name in layers:
            split, rows, columns = layers[name]
            for step, gradient in zip(split(moved), split(gradients[name]), strict=True):
                expected = 0.1 * LENGTHS[scale](rows, columns) * nearest_orthonormal(gradient)
                torch.testing.assert_close(step, expected, rtol=0, atol=1e-8)
        else:  # the first step of Adam
            torch.testing.assert_close(moved, 0.003 * gradients[name].sign(), rtol=1e-4, atol=0)


def test_heads_are_matrices_of_their_own_if_asked():
    model = nn.MultiheadAttention(8, 2, bias=False).double()
    before = model.in_proj_weight.detach().clone()
    optimizer = Muon(param_groups(model, attention="heads"), lr=1.0)
    set_gradients(list(model.parameters()), 0)
    gradients = model.in_proj_weight.grad.clone().view(6, 4, 8)
    optimizer.step()
    moved = (before - model.in_proj_weight.detach()).view(6, 4, 8)
    torch.testing.assert_close(moved, nearest_orthonormal(gradients), rtol=0, atol=1e-8)


def test_without_groups_shapes_decide():
    shapes = [(4, 6), (3,), (4, 2, 3, 3), ()]
    params = parameters(shapes)
    optimizer = Muon(iter(params), lr=0.5, adamw_lr=0.01)
    matrices, others = optimizer.param_groups
    assert [p.shape for p in matrices["params"]] == [(4, 6), (4, 2, 3, 3)]
    assert [p.shape for p in others["params"]] == [(3,), ()]
    assert (matrices["lr"], matrices["orth"], others["lr"], others["orth"]) == (
        0.5, True, 0.01, False,
    )  # fmt: skip
    assert "adamw_lr" not in others
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    train(optimizer, params, 1)
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.005]


def test_mixed_groups_keep_their_options_and_names():
    p, b = parameters([(2, 3), (3,)])
    optimizer = Muon(
        [{"params": [b, p], "names": ["b", "p"], "lr": 0.3, "adamw_lr": 0.2, "weight_decay": 0.1}]
    )
    first, second = optimizer.param_groups
    assert (first["names"], first["lr"], first["weight_decay"]) == (["p"], 0.3, 0.1)
    assert (second["names"], second["lr"], second["weight_decay"]) == (["b"], 0.2, 0.1)
    named = Muon([("p", p), ("b", b)])
    assert [group["param_names"] for group in named.param_groups] == [["p"], ["b"]]


def test_a_rate_that_a_group_for_adamw_has_is_kept():
    vectors = parameters([(3,)])
    (group,) = Muon([{"params": vectors, "lr": 0.3}], adamw_lr=0.1).param_groups
    assert group["lr"] == 0.3
    (group,) = Muon([{"params": vectors, "orth": False}], lr=1.0, adamw_lr=0.1).param_groups
    assert group["lr"] == 0.1


def test_groups_of_a_model_can_have_a_rate_for_adamw():
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 2))
    rates = [(g["name"], g["lr"]) for g in param_groups(model, lr=0.1, lr_raw=0.01)]
    assert rates == [
        ("orthonormalised weights", 0.1), ("weights", 0.01), ("biases and norms", 0.01),
    ]  # fmt: skip
    groups = param_groups(model, lr=0.1, lr_raw=0.01, lr_biases=0.2)
    assert [group["lr"] for group in groups] == [0.1, 0.01, 0.2]
    assert [group["lr"] for group in Muon(groups, lr=1.0).param_groups] == [0.1, 0.01, 0.2]


def test_a_momentum_that_warms_up_is_torchs():
    skip_without_muon()
    ours, theirs = parameters(MATRICES), parameters(MATRICES)
    optimizer = Muon(ours, lr=0.02, polar="muon_bf16")
    other = torch.optim.Muon(theirs, lr=0.02, weight_decay=0)
    for step, momentum in enumerate((0.5, 0.8, 0.95, 0.7)):
        for params, each in ((ours, optimizer), (theirs, other)):
            each.param_groups[0]["momentum"] = momentum
            set_gradients(params, step)
            each.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-3)


def test_a_state_of_torchs_muon_goes_on():
    skip_without_muon()
    theirs = parameters(MATRICES)
    other = torch.optim.Muon(theirs, lr=0.02, weight_decay=0)
    train(other, theirs)
    ours = [nn.Parameter(p.detach().clone()) for p in theirs]
    optimizer = Muon(ours, lr=0.02, polar="muon_bf16")
    optimizer.load_state_dict(copy.deepcopy(other.state_dict()))  # torch shares the tensors
    for params, each in ((ours, optimizer), (theirs, other)):
        set_gradients(params, 9)
        each.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-3)


def test_adamw_at_the_rate_of_the_matrices_is_said():
    model = nn.Linear(3, 2)
    model.weight.grad, model.bias.grad = torch.ones(2, 3), torch.ones(2)
    with pytest.warns(UserWarning, match="'biases and norms' with the matrices' rate 0.02"):
        Muon(param_groups(model, lr=0.02)).step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Muon(param_groups(model), lr=0.02).step()
        Muon(param_groups(model, lr=0.02, lr_raw=1e-3)).step()
        Muon(param_groups(model, lr=1e-3), scale="moonlight").step()  # rates of AdamW serve


def test_rows_of_wide_matrices_have_length_one_already():
    """Where an exact factor has no more rows than columns, NorMuon's second moment is the same for all rows."""
    wide, tall = [(4, 9)], [(9, 4)]
    for shapes, changes in ((wide, False), (tall, True)):
        plain, normalised = parameters(shapes), parameters(shapes)
        train(Muon(plain, lr=0.1), plain)
        train(Muon(normalised, lr=0.1, normalise_rows=0.95), normalised)
        assert torch.allclose(plain[0], normalised[0], atol=1e-5) is not changes


# --- Options ----------------------------------------------------------------------------------------


def test_coupled_decay_goes_through_momentum_and_factor():
    ours = parameters([(4, 6), (3, 2, 2)], torch.float64)
    theirs = parameters([(4, 6), (3, 2, 2)], torch.float64)
    options = {"weight_decay": 0.3, "decoupled_weight_decay": False, "nesterov": False}
    train(Muon(ours, lr=0.1, scale="none", momentum=0.8, **options), ours)
    buffers = [torch.zeros_like(p) for p in theirs]
    for step in range(STEPS):
        set_gradients(theirs, step)
        for p, buffer in zip(theirs, buffers, strict=True):
            buffer.mul_(0.8).add_(0.2 * (p.grad + 0.3 * p.detach()))
            p.data -= 0.1 * nearest_orthonormal(buffer.flatten(1)).view(p.shape)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-8)


def test_rows_are_normalised_matrix_by_matrix():
    """On a grouped convolution; NorMuon's formula with its memory, after the factor."""
    model = nn.Conv2d(4, 6, 2, groups=2, bias=False).double()
    expected = model.weight.detach().clone()
    optimizer = Muon(param_groups(model), lr=0.1, momentum=0, scale="moonlight", normalise_rows=0.9)
    v = torch.zeros(2, 3, 1, dtype=torch.float64)
    for step in range(STEPS):
        set_gradients([model.weight], step)
        factors = nearest_orthonormal(model.weight.grad.view(2, 3, 8))
        v = 0.9 * v + 0.1 * factors.square().mean(2, keepdim=True)
        rows = factors / (v.sqrt() + 1e-10)
        for k in range(2):
            update = 0.2 * (3 * 8) ** 0.5 / rows[k].norm() * rows[k]
            expected[3 * k : 3 * k + 3] -= 0.1 * update.view(3, 2, 2, 2)
        optimizer.step()
    torch.testing.assert_close(model.weight.detach(), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "moon"}, "scale='moon' is not one of 'none', 'muon', 'moonlight', 'spectral'"),
        ({"normalise_rows": 1.0}, "normalise_rows=1.0 must be from 0 to below 1"),
        ({"normalise_rows": True}, "normalise_rows=True must be from 0 to below 1"),
        ({"momentum": 1.0}, "momentum=1.0 must be from 0 to below 1"),
        ({"momentum": -0.1}, "momentum=-0.1"),
        ({"nesterov": 1}, "nesterov=1 must be True or False"),
        ({"decoupled_weight_decay": None}, "decoupled_weight_decay=None must be True or False"),
        ({"betas": (0.9, 1.0)}, r"betas=\(0.9, 1.0\) must be two numbers"),
        ({"betas": 0.9}, "betas=0.9 must be two numbers"),
        ({"eps": -1.0}, "eps=-1.0 must be 0 or more"),
        ({"adamw_lr": -1.0}, "adamw_lr=-1.0 must be 0 or more"),
        ({"adamw_lr": float("nan")}, "adamw_lr=nan must be 0 or more"),
        ({"lr": -1.0}, "Invalid learning rate: -1.0"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"polar": "muon5"}, "polar='muon5' is not one of"),
        ({"orth": "no"}, "orth='no' of a parameter group must be True or False"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    mixed = parameters([(2, 3), (3,)])
    with pytest.raises(ValueError, match=message):
        Muon(mixed, **options)
    if "adamw_lr" in options or "lr" in options:
        return
    optimizer = Muon(parameters([(2, 2)]))
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": mixed, **options})
    assert len(optimizer.param_groups) == 1


def test_torchs_muon_is_refused_with_the_place_of_ours():
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("Muon came with torch 2.9")
    with pytest.raises(ValueError, match=r"sslortho\.optim\.Muon"):
        orthogonal(torch.optim.Muon)
    with pytest.raises(ValueError, match="Muon replaces its gradients already"):
        orthogonal(Muon)


def test_sparse_gradients_are_refused():
    table = nn.Embedding(5, 3, sparse=True)
    table(torch.tensor([1, 2])).sum().backward()
    for orth in (True, False):
        with pytest.raises(ValueError, match=r"Muon does not take sparse .* shape \(5, 3\)"):
            Muon([{"params": table.parameters(), "orth": orth}]).step()


class OnGpu(nn.Parameter):
    """A parameter that says that it is on a GPU."""

    is_cuda = True


@pytest.mark.parametrize("cls", [OnGpu, nn.Parameter])
def test_a_step_of_adamw_is_not_captured(cls, monkeypatch):
    """A CUDA graph would hold the bias correction of one step; torch refuses its own AdamW so."""
    matrix, vector = (cls(draw(shape)) for shape in ((2, 3), (3,)))
    matrix.grad, vector.grad = draw((2, 3)), draw((3,))
    capturing = []
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: bool(capturing))
    optimizer = Muon([vector])
    optimizer.step()
    capturing.append(True)
    before = vector.detach().clone()
    if cls is nn.Parameter:
        optimizer.step()
        return
    with pytest.raises(RuntimeError, match="cannot be captured in a CUDA graph"):
        optimizer.step()
    assert torch.equal(vector, before)
    Muon([matrix]).step()


# --- Everything else that an optimizer does ---------------------------------------------------------

SHAPES = [(4, 6), (3, 2, 3, 3), (5,)]
FULL: dict[str, Any] = {"weight_decay": 0.1, "normalise_rows": 0.9}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("how", ["state_dict", "pickle", "deepcopy"])
def test_training_goes_on_bitwise(how, dtype):
    params = parameters(SHAPES, dtype)
    optimizer = Muon(params, **FULL)
    train(optimizer, params)
    if how == "state_dict":
        twins = [nn.Parameter(p.detach().clone()) for p in params]
        twin = Muon(twins, **FULL)
        twin.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    else:
        copies = {"pickle": lambda o: pickle.loads(pickle.dumps(o)), "deepcopy": copy.deepcopy}
        twin = copies[how](optimizer)
        twins = [p for group in twin.param_groups for p in group["params"]]
    train(optimizer, params)
    train(twin, twins)
    for p, q in zip(params, twins, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_float32_rounded_once(dtype):
    """Decay and gradients that half precision would lose."""
    shapes = [(16, 8), (40,)]
    halves = parameters(shapes, dtype)
    for p in halves:
        p.data.mul_(100)
    exact = [nn.Parameter(p.detach().float()) for p in halves]
    options = {"lr": 0.5, "momentum": 0, "weight_decay": 1e-3, "adamw_lr": 0.5}
    for params in (halves, exact):
        optimizer = Muon(params, **options)
        for i, p in enumerate(params):
            p.grad = draw(p.shape, i).mul(1e-4).to(dtype).to(p.dtype)
        optimizer.step()
    eps = torch.finfo(dtype).eps
    for p, q in zip(halves, exact, strict=True):
        assert p.isfinite().all()
        torch.testing.assert_close(p.float(), q, rtol=eps / 2 + 1e-6, atol=2e-3 * 0.5)
    moments = optimizer.state[exact[1]]["exp_avg_sq"]
    assert (moments > 0).all()  # 1e-8 is zero in float16


def test_absent_and_zero_gradients():
    params = parameters([(3, 4), (3, 4), (4,), (4,), (3, 0)])
    before = [p.detach().clone() for p in params]
    optimizer = Muon(params, normalise_rows=0.9)
    params[1].grad, params[3].grad = torch.zeros(3, 4), torch.zeros(4)
    params[4].grad = torch.zeros(3, 0)
    optimizer.step()
    for p, q in zip(params, before, strict=True):
        assert torch.equal(p, q)
    assert not optimizer.state[params[0]]
    assert not optimizer.state[params[2]]


def test_a_broken_matrix_leaves_the_others_alone():
    params = parameters([(3, 4), (3, 4)])
    set_gradients(params, 0)
    assert params[0].grad is not None
    params[0].grad[0, 0] = torch.nan
    Muon(params, normalise_rows=0.9).step()
    assert params[0].isnan().all()
    assert params[1].isfinite().all()


def test_closures_and_gradient_scalers():
    params = parameters([(4, 6), (4,)])
    optimizer = Muon(params, lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    twins = parameters([(4, 6), (4,)])
    other = Muon(twins, lr=0.1)
    x = draw((6,), 9)
    for _ in range(3):

        def closure():
            other.zero_grad()
            loss = (twins[0] @ x + twins[1]).square().sum()
            loss.backward()
            return loss

        expected = other.step(closure)
        optimizer.zero_grad()
        loss = (params[0] @ x + params[1]).square().sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(params, twins)


@pytest.mark.slow
def test_a_compiled_step_is_the_step():
    results = []
    for compiled in (False, True):
        params = parameters(SHAPES)
        optimizer = Muon(params, **FULL)
        step = torch.compile(optimizer.step, backend="aot_eager") if compiled else optimizer.step
        for number in range(3):
            set_gradients(params, number)
            step()
        results.append([p.detach() for p in params])
    torch.testing.assert_close(*results)


def test_monitors_and_memory():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))
    optimizer = Muon(param_groups(model))
    set_gradients(list(model.parameters()), 0)
    figures = measure_gradients(optimizer.param_groups)
    assert set(figures) == {
        f"{key}/0" for key in ("cosine", "distance", "effective_rank", "gradient_norm")
    }
    optimizer.step()
    weights, others = 2 * 4 * 9, 4 + 4 + 4
    steps = 3
    assert state_bytes(optimizer) == 4 * (weights + 2 * others + steps)
