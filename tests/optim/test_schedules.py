import itertools
import math

import pytest
import torch
from torch import nn

from sslortho.optim import Muon
from sslortho.optim.schedules import multi_step, warmup_cosine


@pytest.mark.parametrize(
    ("epochs", "steps_per_epoch", "warmup_epochs"), [(1000, 3, 10), (20, 7, 10), (11, 5, 10)]
)
def test_warmup_cosine_is_barlow_twins_adjust_learning_rate(epochs, steps_per_epoch, warmup_epochs):
    """facebookresearch/barlowtwins: from 0 to base in a line, then to base / 1000 in half a cosine."""
    total, warmup, base = epochs * steps_per_epoch, warmup_epochs * steps_per_epoch, 2048 / 256
    expected = []
    for step in range(total):
        if step < warmup:
            expected.append(base * step / warmup)
        else:
            weight = (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
            expected.append(weight * base + (1 - weight) * base / 1000)
    ours = [base * warmup_cosine(step, total, warmup) for step in range(total)]
    assert ours == pytest.approx(expected, rel=1e-12)


def test_warmup_cosine_without_warmup_starts_at_one_and_ends_at_final():
    assert warmup_cosine(0, 100) == 1.0
    assert warmup_cosine(50, 100, final=0.2) == pytest.approx(0.6)
    assert warmup_cosine(100, 100, final=0.2) == pytest.approx(0.2)
    assert warmup_cosine(250, 100, final=0.2) == pytest.approx(0.2)


def test_warmup_meets_the_cosine_and_then_falls():
    values = [warmup_cosine(step, 60, 20) for step in range(61)]
    assert values[0] == 0
    assert values[20] == 1
    assert all(a < b for a, b in itertools.pairwise(values[:21]))
    assert all(a > b for a, b in itertools.pairwise(values[20:]))


@pytest.mark.parametrize("step", [0, 10, 1000])
def test_a_run_that_is_all_warmup_is_defined(step):
    assert 0 <= warmup_cosine(step, 10, 10) <= 1


def test_multi_step_is_torchs():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    milestones = [3, 7, 8]
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.2)
    theirs = []
    for _ in range(12):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert [multi_step(step, milestones, gamma=0.2) for step in range(12)] == pytest.approx(theirs)


def test_multi_step_takes_milestones_in_any_order_and_none():
    assert multi_step(5, []) == 1
    assert multi_step(5, [9, 5, 2]) == pytest.approx(0.01)


@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR"])
def test_schedules_that_set_rates_can_leave_momentum_alone(name):
    """As Muon's docstring says: a rate for each group, and cycle_momentum=False."""
    matrix, vector = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3))
    optimizer = Muon([matrix, vector])
    rates = [0.02, 3e-4]
    options = {
        "OneCycleLR": {"total_steps": 11},
        "CyclicLR": {"base_lr": [1e-3, 1e-5], "step_size_up": 5},
    }[name]
    schedule = getattr(torch.optim.lr_scheduler, name)(
        optimizer, max_lr=rates, cycle_momentum=False, **options
    )
    seen = []
    for _ in range(10):
        matrix.grad, vector.grad = torch.ones(2, 3), torch.ones(3)
        optimizer.step()
        schedule.step()
        seen.append([group["lr"] for group in optimizer.param_groups])
    assert [max(column) for column in zip(*seen, strict=True)] == pytest.approx(rates, rel=0.1)
    for group in optimizer.param_groups:
        assert (group["momentum"], group["betas"]) == (0.95, (0.9, 0.95))
