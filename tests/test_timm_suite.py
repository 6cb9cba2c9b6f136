"""timm's tests of its own optimizers, asked of ours: what its tests/test_optim.py does, with our names.

Rates are those of timm's tests for the optimizer that each of ours is built on.
"""

import copy

import pytest
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, StepLRScheduler
from torch import nn

import sslortho.timm

# rate of plain cases, of a group, of Rosenbrock's valley, and of the small network
RATES = {
    "orth_sgd": (1e-3, 1e-2, 1e-3, 1e-3),
    "orth_adam": (1e-3, 3e-3, 5e-2, 5e-2),
    "orth_adamw": (1e-3, 3e-3, 5e-2, 5e-2),
    "orth_lars": (1e-3, 1e-3, 1e-3, 1e-3),
    "norm_sgd": (1e-3, 1e-2, 1e-3, 1e-3),
    "component_norm_sgd": (1e-3, 1e-2, 1e-3, 1e-3),
    "sslortho_lars": (1e-3, 1e-3, 1e-3, 1e-3),
    "sslortho_muon": (1e-3, 1e-2, 1e-3, 1e-3),
}
NAMES = [*RATES, *(f"lookahead_{name}" for name in RATES)]


def rates_of(name: str) -> tuple[float, ...]:
    return RATES[name.removeprefix("lookahead_")]


def test_no_name_is_missing():
    assert set(RATES) == set(sslortho.timm.NAMES)


def draw_problem(contiguous: bool = True, seed: int = 0):
    """A weight (10, 5), a bias (10,) and an input (5,)."""
    generator = torch.Generator().manual_seed(seed)
    if contiguous:
        weight, bias = torch.randn(10, 5, generator=generator), torch.randn(10, generator=generator)
    else:
        weight = torch.randn(10, 5, 2, generator=generator)[..., 0]
        bias = torch.randn(10, 2, generator=generator)[..., 0]
    return nn.Parameter(weight), nn.Parameter(bias), torch.randn(5, generator=generator)


def closure_of(optimizer, weight, bias, x):
    def closure():
        optimizer.zero_grad()
        loss = (weight.mv(x) + bias).square().sum()
        loss.backward()
        return loss

    return closure


CONSTRUCTIONS = {
    "parameters": lambda name, w, b, lr, group_lr: create_optimizer_v2([w, b], name, lr=lr),
    "a rate of one group": lambda name, w, b, lr, group_lr: create_optimizer_v2(
        [{"params": [w]}, {"params": [b], "lr": group_lr}], name, lr=lr
    ),
    "one parameter": lambda name, w, b, lr, group_lr: create_optimizer_v2(
        [{"params": b, "lr": group_lr}], name, lr=lr
    ),
    "no rate but the group's": lambda name, w, b, lr, group_lr: create_optimizer_v2(
        [{"params": b, "lr": group_lr}], name
    ),
    "decay": lambda name, w, b, lr, group_lr: create_optimizer_v2(
        [w, b], name, lr=lr, weight_decay=0.1
    ),
    "one by one": lambda name, w, b, lr, group_lr: create_optimizer_v2(
        [w, b], name, lr=lr, foreach=False
    ),
    "no momentum": lambda name, w, b, lr, group_lr: create_optimizer_v2(
        [w, b], name, lr=lr, momentum=0.0
    ),
}


CASES = [(name, construction) for name in RATES for construction in CONSTRUCTIONS]
CASES += [(f"lookahead_{name}", "no rate but the group's") for name in RATES]
CASES += [(f"lookahead_{name}", "parameters") for name in RATES]


@pytest.mark.parametrize(
    ("name", "construction", "contiguous"),
    [(*case, True) for case in CASES] + [(name, "parameters", False) for name in RATES],
)
def test_two_hundred_steps_lower_the_loss(name, contiguous, construction):
    weight, bias, x = draw_problem(contiguous)
    optimizer = CONSTRUCTIONS[construction](name, weight, bias, *rates_of(name)[:2])
    assert "lr" in repr(optimizer)
    closure = closure_of(optimizer, weight, bias, x)
    first = closure().item()
    for _ in range(200):
        optimizer.step(closure)
    assert closure().item() < first


@pytest.mark.parametrize(("name", "construction"), CASES)
def test_a_loaded_state_goes_on_as_the_first(name, construction):
    weight, bias, x = draw_problem()
    rates = rates_of(name)[:2]
    optimizer = CONSTRUCTIONS[construction](name, weight, bias, *rates)
    for _ in range(20):
        optimizer.step(closure_of(optimizer, weight, bias, x))
    other_weight, other_bias = (nn.Parameter(p.detach().clone()) for p in (weight, bias))
    other = CONSTRUCTIONS[construction](name, other_weight, other_bias, *rates)
    state = copy.deepcopy(optimizer.state_dict())
    kept = copy.deepcopy(state)
    other.load_state_dict(state)
    torch.testing.assert_close(state["state"], kept["state"], rtol=0, atol=0)
    assert state["param_groups"] == kept["param_groups"]
    for _ in range(20):
        optimizer.step(closure_of(optimizer, weight, bias, x))
        other.step(closure_of(other, other_weight, other_bias, x))
    torch.testing.assert_close((weight, bias), (other_weight, other_bias), rtol=0, atol=0)
    ours, theirs = optimizer.state_dict(), other.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    torch.testing.assert_close(ours["state"], theirs["state"], rtol=0, atol=0)
    other.param_groups.extend(other.param_groups)  # repeated groups look the same
    assert other.state_dict()["param_groups"][-1] == ours["param_groups"][-1]
    names = {key for key in vars(optimizer) if not key.startswith("_")}
    assert names == {key for key in vars(copy.deepcopy(optimizer)) if not key.startswith("_")}


def rosenbrock(point):
    x, y = point
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_valley_of_rosenbrock_is_followed_one_coordinate_at_a_time(name):
    point = nn.Parameter(torch.tensor([1.5, 1.5]))
    options = {"adamw_lr": 5e-2} if "muon" in name else {}  # a vector is AdamW's
    optimizer = create_optimizer_v2([point], name, lr=rates_of(name)[2], momentum=0.0, **options)
    before = torch.dist(point.detach(), torch.ones(2))
    for step in range(2000):
        optimizer.zero_grad()
        rosenbrock(point).backward()
        point.grad[(step + 1) % 2] = 0
        optimizer.step()
    assert torch.dist(point.detach(), torch.ones(2)) <= before


@pytest.mark.parametrize("name", RATES)  # timm asks it of none behind Lookahead
def test_every_step_lowers_the_output_of_a_small_network(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1), nn.Sigmoid())
    x = torch.linspace(0.1, 0.6, 6).view(3, 2)
    optimizer = create_optimizer_v2(model, opt=name, lr=rates_of(name)[3])
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = model(x).sum()
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 20


SCHEDULERS = [
    lambda optimizer: StepLRScheduler(optimizer, decay_t=10, decay_rate=0.9),
    lambda optimizer: CosineLRScheduler(optimizer, t_initial=50, warmup_t=5, warmup_lr_init=1e-5),
]


@pytest.mark.parametrize("schedule", SCHEDULERS, ids=["step", "cosine"])
@pytest.mark.parametrize("name", [*RATES, "lookahead_orth_sgd"])
def test_timms_schedulers_drive_the_rate(name, schedule):
    weight, bias, x = draw_problem()
    optimizer = create_optimizer_v2([weight, bias], name, lr=rates_of(name)[0])
    scheduler = schedule(optimizer)
    closure = closure_of(optimizer, weight, bias, x)
    first, rates = closure().item(), set()
    for epoch in range(30):
        scheduler.step(epoch)
        optimizer.step(closure)
        rates.add(optimizer.param_groups[0]["lr"])
    assert len(rates) > 1
    assert closure().item() < first


@pytest.mark.parametrize("name", RATES)
def test_a_default_rate_is_there(name):
    """torch's 1e-3; LARS has that of facebookresearch/barlowtwins, Muon that of KellerJordan/Muon."""
    (group,) = create_optimizer_v2([nn.Parameter(torch.ones(2, 2))], name).param_groups
    assert group["lr"] == {"orth_lars": 0.2, "sslortho_lars": 0.2, "sslortho_muon": 0.02}.get(
        name, 1e-3
    )


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("option", ["lr", "weight_decay"])
def test_negative_numbers_are_refused_in_torchs_words(name, option):
    said = {"lr": "Invalid learning rate: -0.5", "weight_decay": "Invalid weight_decay value: -0.5"}
    with pytest.raises(ValueError, match=said[option]):
        create_optimizer_v2([nn.Parameter(torch.ones(2, 2))], name, **{"lr": 0.1, option: -0.5})


@pytest.mark.parametrize("name", RATES)
def test_a_model_and_its_groups_by_decay_and_depth(name):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)
    )
    for options in ({}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "layer_decay": 0.5}):
        optimizer = create_optimizer_v2(model, name, lr=1e-3, **options)
        optimizer.zero_grad()
        before = copy.deepcopy(model.state_dict())
        model(torch.randn(2, 3, 4, 4)).square().sum().backward()
        optimizer.step()
        assert all(not torch.equal(p, before[key]) for key, p in model.named_parameters())
