import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from sslortho.optim import LARS, OrthLARS, lars

SHAPES = [(5,), (4, 6), (3, 2, 3, 3), (2, 4), (6,), (3, 3)]
STEPS = 25


def reference_step(p, g, mu, *, lr, momentum, weight_decay, eta, exempt, nesterov=False):
    """LARS of facebookresearch/barlowtwins on numpy arrays: new p and mu.

    `exempt` is what its two exclusion filters say of a parameter.
    """
    dp = g if exempt else g + weight_decay * p
    if not exempt and eta is not None:
        norms = np.sqrt((p**2).sum()), np.sqrt((dp**2).sum())
        if norms[0] > 0 and norms[1] > 0:
            dp = eta * norms[0] / norms[1] * dp
    mu = momentum * mu + dp
    return p - lr * (dp + momentum * mu if nesterov else mu), mu


def draw_parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES]
    tensors[3].zero_()  # no ratio, until it has moved
    return [nn.Parameter(tensor) for tensor in tensors]


def draw_gradients(step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    gradients = [torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES]
    if step % 5 < 2:
        gradients[3].zero_()  # on step 0 of a zero parameter: both norms are zero
        gradients[5].zero_()
    return gradients


def run(optimizer, parameters, steps) -> None:
    for step in steps:
        for parameter, gradient in zip(parameters, draw_gradients(step), strict=True):
            parameter.grad = gradient
        optimizer.step()


def assert_follows_reference(optimizer, parameters, options_of) -> None:
    """STEPS steps of the optimizer and of `reference_step`, side by side."""
    expected = [p.detach().numpy().copy() for p in parameters]
    mus = [np.zeros_like(p) for p in expected]
    for step in range(STEPS):
        run(optimizer, parameters, [step])
        for i, gradient in enumerate(draw_gradients(step)):
            options = options_of(i)
            expected[i], mus[i] = reference_step(expected[i], gradient.numpy(), mus[i], **options)
    for parameter, array in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.detach(), torch.from_numpy(array))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 1e-2},
        {"weight_decay": 0.3, "momentum": 0.5, "trust_coefficient": 0.02},
        {"weight_decay": 0.1, "momentum": 0.0},
        {"weight_decay": 0.1, "nesterov": True},
        {"weight_decay": 0.1, "trust_coefficient": None},
        {"weight_decay": 0.1, "exempt_1d": False},
        {"exempt_1d": False, "nesterov": True, "momentum": 0.3},
    ],
    ids=str,
)
@pytest.mark.parametrize("form", ["one by one", "together", "as on a GPU"])
def test_follows_the_formula_of_barlow_twins(monkeypatch, options, form):
    parameters = draw_parameters()
    monkeypatch.setattr(lars, "fewer_passes_pay", lambda *_: form == "as on a GPU")
    optimizer = LARS(parameters, lr=0.3, foreach=form != "one by one", **options)
    full = {"momentum": 0.9, "weight_decay": 0, "trust_coefficient": 1e-3, "nesterov": False}
    full |= {"exempt_1d": True} | options

    def options_of(i: int) -> dict:
        return {
            "lr": 0.3,
            "momentum": full["momentum"],
            "weight_decay": full["weight_decay"],
            "eta": full["trust_coefficient"],
            "nesterov": full["nesterov"],
            "exempt": full["exempt_1d"] and len(SHAPES[i]) == 1,
        }

    assert_follows_reference(optimizer, parameters, options_of)


def test_every_option_can_be_set_for_a_group():
    parameters = draw_parameters()
    optimizer = LARS(
        [
            {"params": parameters[:3]},
            {
                "params": parameters[3:],
                "lr": 0.05,
                "momentum": 0.4,
                "weight_decay": 0.2,
                "trust_coefficient": 0.01,
                "nesterov": True,
                "exempt_1d": False,
            },
        ],
        lr=0.3,
        weight_decay=1e-2,
    )
    first = {"lr": 0.3, "momentum": 0.9, "weight_decay": 1e-2, "eta": 1e-3}
    second = {"lr": 0.05, "momentum": 0.4, "weight_decay": 0.2, "eta": 0.01, "nesterov": True}

    def options_of(i: int) -> dict:
        if i < 3:
            return {**first, "exempt": len(SHAPES[i]) == 1}
        return {**second, "exempt": False}

    assert_follows_reference(optimizer, parameters, options_of)


@pytest.mark.parametrize(
    ("lr", "passes"),
    [(0.3, "usual"), (torch.tensor(0.3), "usual"), (0.3, "fewer")],
    ids=["number", "tensor", "fewer passes"],
)
@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": 0.0}, {"nesterov": True}, {"exempt_1d": False}, {"trust_coefficient": None}],
    ids=str,
)
def test_together_equals_one_by_one(monkeypatch, options, lr, passes):
    """In float32 and bfloat16 side by side in one group, over 10 steps."""
    monkeypatch.setattr(lars, "fewer_passes_pay", lambda *_: passes == "fewer")
    results = []
    for foreach in (True, False):
        generator = torch.Generator().manual_seed(0)
        tensors = [torch.randn(s, generator=generator) for s in SHAPES * 2]
        dtypes = [torch.float32] * len(SHAPES) + [torch.bfloat16] * len(SHAPES)
        parameters = [nn.Parameter(t.to(d)) for t, d in zip(tensors, dtypes, strict=True)]
        optimizer = LARS(parameters, lr=lr, weight_decay=0.1, foreach=foreach, **options)
        for step in range(10):
            for p, gradient in zip(parameters, draw_gradients(step) * 2, strict=True):
                p.grad = gradient.to(p.dtype)
            optimizer.step()
        results.append(parameters)
    for together, alone in zip(*results, strict=True):
        rtol, atol = (1e-6, 1e-7) if passes == "usual" else (1e-5, 1e-6)
        if together.dtype == torch.bfloat16:
            # one unit in the last place; of the largest for small ones
            rtol, atol = 2**-7, 2**-8 * float(alone.detach().abs().max())
        torch.testing.assert_close(together, alone, rtol=rtol, atol=atol)


@pytest.mark.parametrize("form", ["one by one", "together", "as on a GPU"])
def test_steps_uphill_are_those_down_the_other_side(monkeypatch, form):
    """The decay shrinks the weights in both."""
    monkeypatch.setattr(lars, "fewer_passes_pay", lambda *_: form == "as on a GPU")
    options = {"lr": 0.3, "weight_decay": 0.1, "foreach": form != "one by one"}
    up, down = draw_parameters(), draw_parameters()
    first, second = LARS(up, maximize=True, **options), LARS(down, **options)
    for step in range(5):
        for p, q, gradient in zip(up, down, draw_gradients(step), strict=True):
            p.grad, q.grad = gradient, -gradient
        first.step()
        second.step()
    for p, q in zip(up, down, strict=True):
        torch.testing.assert_close(p, q)


def test_fewer_passes_are_for_plain_gradients_on_a_gpu():
    rate = torch.tensor(0.1)
    stand_in = SimpleNamespace(grad=torch.ones(2, 2), device=torch.device("cuda"))
    assert lars.fewer_passes_pay(stand_in, 0.1)
    assert not lars.fewer_passes_pay(stand_in, rate)
    stand_in.device = torch.device("cpu")
    assert not lars.fewer_passes_pay(stand_in, 0.1)


@pytest.mark.gpu
def test_a_gpu_steps_as_the_cpu_does():
    parameters = [nn.Parameter(p.detach().float()) for p in draw_parameters()]
    on_gpu = [nn.Parameter(p.detach().cuda()) for p in parameters]
    optimizers = [
        LARS(each, lr=0.3, weight_decay=0.1, nesterov=True) for each in (parameters, on_gpu)
    ]
    for step in range(10):
        for ours, theirs, gradient in zip(parameters, on_gpu, draw_gradients(step), strict=True):
            ours.grad = gradient.float()
            theirs.grad = gradient.float().cuda()
        for optimizer in optimizers:
            optimizer.step()
    for ours, theirs in zip(parameters, on_gpu, strict=True):
        torch.testing.assert_close(theirs.detach().cpu(), ours.detach(), rtol=1e-5, atol=1e-6)


def test_together_takes_few_operations():
    """As many for twenty parameters as for two: nothing is done, or looked at, one by one."""
    counts = []
    for number in (2, 20):
        parameters = [nn.Parameter(torch.randn(3, 4)) for _ in range(number)]
        optimizer = LARS(parameters, lr=0.1, weight_decay=0.1)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            for _ in range(2):
                for p in parameters:
                    p.grad = torch.ones(3, 4)
                optimizer.step()
        names = [event.name for event in profile.events()]
        assert "aten::_local_scalar_dense" not in names  # .item()
        counts.append(sum(name.startswith("aten::_foreach") for name in names))
    assert counts[0] == counts[1] > 0


def test_step_is_lr_times_trust_coefficient_of_the_norm():
    weight = nn.Parameter(torch.randn(5, 7, generator=torch.Generator().manual_seed(0)))
    before = weight.detach().clone()
    weight.grad = 1e6 * torch.ones(5, 7)
    LARS([weight], lr=2.0, trust_coefficient=0.01).step()
    moved = torch.linalg.vector_norm(weight.detach() - before)
    torch.testing.assert_close(moved, 2.0 * 0.01 * torch.linalg.vector_norm(before))


def test_a_scalar_is_exempt():
    scalar = nn.Parameter(torch.tensor(3.0))
    scalar.grad = torch.tensor(0.5)
    LARS([scalar], lr=1.0, weight_decay=10.0).step()
    assert scalar.item() == 2.5


def test_missing_gradient_leaves_the_parameter():
    moved, still = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    moved.grad = torch.ones(2, 2)
    LARS([moved, still], lr=1.0, weight_decay=0.1).step()
    assert torch.equal(still, torch.ones(2, 2))
    assert not torch.equal(moved, torch.ones(2, 2))


def test_gradient_is_not_written_to():
    parameter = nn.Parameter(torch.ones(2, 2))
    parameter.grad = torch.full((2, 2), 3.0)
    LARS([parameter], lr=1.0, weight_decay=0.1).step()
    assert torch.equal(parameter.grad, torch.full((2, 2), 3.0))


def test_lr_as_tensor_equals_lr_as_number():
    results = []
    for lr in (0.3, torch.tensor(0.3, dtype=torch.float64)):
        parameters = draw_parameters()
        run(LARS(parameters, lr=lr, weight_decay=0.1), parameters, range(3))
        results.append([p.detach() for p in parameters])
    torch.testing.assert_close(*results)


def test_no_buffer_without_momentum():
    parameters = draw_parameters()
    optimizer = LARS(parameters, lr=0.1, momentum=0)
    run(optimizer, parameters, range(2))
    assert optimizer.state_dict()["state"] == {}


def test_closure_runs_once_with_gradients_and_its_loss_is_returned():
    parameter = nn.Parameter(torch.ones(2, 2))
    optimizer, calls = LARS([parameter], lr=0.1), []

    def closure():
        calls.append(torch.is_grad_enabled())
        loss = parameter.sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert calls == [True]
    assert loss.item() == 4


def test_saved_state_continues_identically():
    straight = draw_parameters()
    run(LARS(straight, lr=0.3, weight_decay=0.1), straight, range(8))

    parameters = draw_parameters()
    optimizer = LARS(parameters, lr=0.3, weight_decay=0.1)
    run(optimizer, parameters, range(4))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed = LARS(parameters, lr=99.0)
    resumed.load_state_dict(torch.load(file))
    run(resumed, parameters, range(4, 8))
    for a, b in zip(straight, parameters, strict=True):
        assert torch.equal(a, b)


def test_a_state_from_before_there_was_foreach():
    parameters = draw_parameters()
    optimizer = LARS(parameters, lr=0.3)
    run(optimizer, parameters, range(2))
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        del group["foreach"]
    optimizer.load_state_dict(state)
    run(optimizer, parameters, range(2))
    assert optimizer.param_groups[0]["foreach"] is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -0.1}, "lr=-0.1 must be 0 or more"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"momentum": -1.0}, "momentum=-1.0 must be 0 or more"),
        ({"weight_decay": -1e-4}, "weight_decay=-0.0001 must be 0 or more"),
        ({"trust_coefficient": 0.0}, "trust_coefficient=0.0 must be above 0, or None"),
        ({"trust_coefficient": -1.0}, "trust_coefficient=-1.0 must be above 0"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov=True needs momentum"),
    ],
    ids=str,
)
def test_options_are_checked_for_the_optimizer_and_for_a_group(options, message):
    parameters = draw_parameters()
    with pytest.raises(ValueError, match=message):
        LARS(parameters, **{"lr": 0.1, **options})
    with pytest.raises(ValueError, match=message):
        LARS([{"params": parameters, **options}], lr=0.1)


def test_sparse_gradient_is_refused():
    table = nn.Embedding(5, 3, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse=False"):
        LARS(table.parameters(), lr=0.1).step()


@pytest.mark.parametrize("foreach", [True, False])
def test_a_zero_weight_does_not_blow_up_on_orthonormal_gradients(foreach):
    """By LARS's ratio of one the step would have the spectral norm lr, here 6."""
    weight = nn.Parameter(torch.zeros(3, 5))
    bias = nn.Parameter(torch.zeros(3))
    groups = [{"params": [weight]}, {"params": [bias], "orth": False}]
    optimizer = OrthLARS(groups, lr=6.0, momentum=0, trust_coefficient=1e-3, foreach=foreach)
    weight.grad = 1e-4 * torch.eye(3, 5)
    bias.grad = torch.full((3,), 1e-4)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), -6e-3 * torch.eye(3, 5))
    torch.testing.assert_close(bias.detach(), torch.full((3,), -6e-4))  # exempt, as ever
