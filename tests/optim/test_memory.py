"""The paper's 2n, 3n and 4n memory (section 3.1.2)."""

import pytest
import torch
from torch import nn

from sslortho.optim import create_optimizer
from sslortho.optim.memory import state_bytes


@pytest.mark.parametrize(
    ("name", "options", "copies"),
    [
        ("sgd", {"momentum": 0.0}, 0),
        ("orth_sgd", {"momentum": 0.0}, 0),
        ("norm_sgd", {"momentum": 0.0}, 0),
        ("lars", {"momentum": 0.0}, 0),
        ("orth_lars", {"momentum": 0.0}, 0),
        ("sgd", {"momentum": 0.9}, 1),
        ("orth_sgd", {"momentum": 0.9}, 1),
        ("orth_lars", {"momentum": 0.9}, 1),
        ("adam", {}, 2),
        ("orth_adam", {}, 2),
    ],
)
def test_an_optimizer_keeps_what_the_paper_says(name, options, copies):
    model = nn.Sequential(nn.Linear(7, 11), nn.Linear(11, 3))
    optimizer = create_optimizer(name, model.parameters(), lr=0.01, **options)
    assert state_bytes(optimizer) == 0
    model(torch.ones(2, 7)).square().sum().backward()
    optimizer.step()
    numbers = 7 * 11 + 11 + 11 * 3 + 3
    counters = 4 if "adam" in name else 0  # Adam's step counts, one a tensor
    assert state_bytes(optimizer) == 4 * (copies * numbers + counters)
