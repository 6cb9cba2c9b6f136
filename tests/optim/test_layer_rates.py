"""Split of parameter groups by a factor of the rate."""

from torch import nn

from sslortho.optim import param_groups
from sslortho.optim.layer_rates import split_by_factor


def test_each_parameter_keeps_its_group_and_gets_its_rate():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2))
    groups = param_groups(model, lr=0.8, lr_biases=0.08, weight_decay=0.1)
    factors = {id(p): 0.5 for p in model[1].parameters()}
    factors |= {id(p): 0.25 for p in model[0].parameters()}
    split = split_by_factor(groups, factors, lr=1.0)
    found = {
        name: (group["lr"], group["weight_decay"], group["orth"])
        for group in split
        for name in group["names"]
    }
    assert found == {
        "2.weight": (0.8, 0.1, True), "1.weight": (0.4, 0.1, True), "0.weight": (0.2, 0.1, True),
        "2.bias": (0.08, 0.0, False), "1.bias": (0.04, 0.0, False), "0.bias": (0.02, 0.0, False),
    }  # fmt: skip
    assert len({group["name"] for group in split}) == 6
    for group in split:
        named = [model.get_parameter(name) for name in group["names"]]
        assert all(a is b for a, b in zip(named, group["params"], strict=True))


def test_groups_without_a_rate_take_the_given_one():
    model = nn.Linear(3, 4)
    (weights, biases) = split_by_factor(param_groups(model), {id(model.weight): 0.5}, lr=2.0)
    assert weights["lr"] == 1.0
    assert "lr" not in biases
