"""Settings of an optimizer, checked before anything is built."""

import pytest
import torch
from torch import nn

from sslortho.optim import OPTIMIZERS
from sslortho.optim.settings import settle_optimizer

NOTHING = dict.fromkeys(("momentum", "nesterov", "betas", "trust_coefficient", "polar", "share"))


def settle(name, *, orth_layers=None, attention=None, **given):
    return settle_optimizer(
        name, {**NOTHING, **given}, lr=0.1, weight_decay=0.01, orth_layers=orth_layers,
        attention=attention,
    )  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_is_created_with_its_rates(name):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = settle(name).over(network, lr_biases=0.02)
    assert type(optimizer) is OPTIMIZERS[name]
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates.pop("biases and norms") == (3e-4 if name == "muon" else 0.02)
    assert set(rates.values()) == {0.1}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4


@pytest.mark.parametrize(
    ("name", "given", "momentum"),
    [("sgd", {}, 0.9), ("lars", {"momentum": 0.5}, 0.5), ("orth_sgd", {"momentum": 0.0}, 0.0)],
)
def test_momentum_is_there_unless_told(name, given, momentum):
    assert settle(name, **given).settings == {"momentum": momentum}
    weight = torch.zeros(2, 2, requires_grad=True)
    assert settle(name, **given).create([{"params": [weight]}]).defaults["momentum"] == momentum


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sgdd", {}, "optim='sgdd' is not one of"),
        (
            "sgd",
            {"orth_layers": "all"},
            "orth_layers='all' has no effect on optim='sgd'; it has one on",
        ),
        ("lars", {"attention": "heads"}, "attention='heads' has no effect on optim='lars'"),
        ("adam", {"momentum": 0.5}, r"momentum=0.5 is not an option .* its betas, such as \[0.5"),
    ],
)
def test_settings_without_effect_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        settle(name, **options)


def test_layers_are_the_default_where_they_have_an_effect():
    assert settle("orth_lars").orth_layers == "all"
    assert settle("orth_lars", orth_layers="conv").orth_layers == "conv"
    assert settle("orth_lars", orth_layers="all").orth_layers == "all"
    assert settle("lars").orth_layers == "none"


MODEL = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def momenta(name, **given):
    """Momentum before and after the orthonormalisation, of weights and of biases and norms."""
    groups = settle(name, **given).over(MODEL).param_groups
    after = "betas" if "adam" in name else "momentum"
    return [(g["orth_momentum"], g[after]) for g in groups]


@pytest.mark.parametrize("name", ["orth_sgd", "orth_lars"])
def test_momentum_comes_before_or_after_or_both_or_neither(name):
    assert momenta(name) == [(0.0, 0.9), (0.0, 0.9)]
    assert momenta(name, orth_momentum=0.95) == [(0.95, 0.0), (0.95, 0.9)]
    assert momenta(name, orth_momentum=0.95, momentum=0.5) == [(0.95, 0.5), (0.95, 0.5)]
    assert momenta(name, momentum=0.0) == [(0.0, 0.0), (0.0, 0.0)]


@pytest.mark.parametrize("name", ["orth_adam", "orth_adamw"])
def test_adams_first_beta_is_its_momentum(name):
    usual = (0.9, 0.999)
    assert momenta(name) == [(0.0, usual), (0.0, usual)]
    assert momenta(name, orth_momentum=0.95) == [(0.95, (0.0, 0.999)), (0.95, usual)]
    assert momenta(name, orth_momentum=0.95, betas=(0.8, 0.9)) == [(0.95, (0.8, 0.9))] * 2


def test_nesterov_is_that_of_the_only_momentum():
    groups = settle("orth_sgd", orth_momentum=0.95, nesterov=True).over(MODEL).param_groups
    assert [(g["orth_nesterov"], g["nesterov"]) for g in groups] == [(True, False)] * 2


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw", "norm_sgd"])
def test_others_have_no_orthonormalisation_to_come_before(name):
    with pytest.raises(ValueError, match=r"orth_momentum=0.9 is not an option of optim="):
        settle(name, orth_momentum=0.9)


def test_muon_has_all_layers_its_momentum_and_a_rate_for_adamw():
    settings = settle("muon", adamw_lr=0.002, scale="moonlight")
    assert (settings.orth_layers, settings.settings) == (
        "all",
        {"adamw_lr": 0.002, "scale": "moonlight"},
    )
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 3), nn.Embedding(3, 2))
    groups = settings.over(network, lr_biases=9.0).param_groups
    rates = {group["name"]: (group["lr"], group["momentum"]) for group in groups}
    assert rates == {
        "orthonormalised weights": (0.1, 0.95),
        "weights": (0.002, 0.95),
        "biases and norms": (0.002, 0.95),
    }
    assert settle("muon", orth_layers="conv").orth_layers == "conv"
    assert settle("muon", momentum=0.9).settings == {"momentum": 0.9}
    assert "momentum" not in settle("muon").settings


@pytest.mark.parametrize(
    ("name", "option"),
    [("sgd", {"adamw_lr": 0.1}), ("orth_sgd", {"scale": "muon"}), ("muon", {"orth_momentum": 0.9})],
)
def test_options_of_muon_are_its_own(name, option):
    (given,) = option
    with pytest.raises(ValueError, match=f"{given}=.* is not an option of optim='{name}'"):
        settle(name, **option)
