import pytest
import torch
from torch import nn

from sslortho.optim import LARS, OPTIMIZERS, create_optimizer, param_groups
from sslortho.optim.registry import accepted_options

KEYS = {
    *("sgd", "adam", "adamw", "lars"),
    *("orth_sgd", "orth_adam", "orth_adamw", "orth_lars"),
    *("norm_sgd", "component_norm_sgd", "muon"),
}
PLAIN = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "lars": LARS}


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))


def backward(model: nn.Module) -> float:
    model.zero_grad()
    loss = (
        model(torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(1))).square().mean()
    )
    loss.backward()
    return loss.item()


def test_keys_are_those_of_the_design():
    assert set(OPTIMIZERS) == KEYS


@pytest.mark.parametrize("name", sorted(KEYS))
def test_every_optimizer_takes_groups_and_lowers_the_loss(name):
    model = small_model()
    lr = 1.0 if "lars" in name else 0.01
    optimizer = create_optimizer(name, param_groups(model, lr_biases=1e-3, lr=lr), lr=lr)
    assert type(optimizer) is OPTIMIZERS[name]
    losses = []
    for _ in range(10):
        losses.append(backward(model))
        optimizer.step()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_orth_name_is_a_subclass_of_the_plain_one(name):
    assert OPTIMIZERS[name] is PLAIN[name]
    assert issubclass(OPTIMIZERS[f"orth_{name}"], PLAIN[name])


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_orth_false_steps_as_the_plain_one(name):
    models = small_model(), small_model()
    for model, key, options in zip(
        models, (name, f"orth_{name}"), ({}, {"orth": False}), strict=True
    ):
        optimizer = create_optimizer(key, model.parameters(), lr=0.1, **options)
        for _ in range(3):
            backward(model)
            optimizer.step()
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict())


def test_options_reach_the_optimizer():
    optimizer = create_optimizer(
        "orth_lars", [nn.Parameter(torch.ones(2, 2))], lr=0.1, polar="svd", trust_coefficient=0.5
    )
    assert optimizer.param_groups[0]["polar"] == "svd"
    assert optimizer.param_groups[0]["trust_coefficient"] == 0.5


def test_accepted_options():
    orth = {
        "orth", "polar", "orth_components", "orth_view", "rank_tol", "orth_momentum", "orth_nesterov",
        "share", "process_group",
    }  # fmt: skip
    assert accepted_options("orth_sgd") - accepted_options("sgd") == orth
    assert accepted_options("muon") == {
        "lr", "momentum", "nesterov", "weight_decay", "decoupled_weight_decay", "scale",
        "normalise_rows", "adamw_lr", "betas", "eps", "foreach",
    } | orth - {"orth_momentum", "orth_nesterov"}  # fmt: skip
    assert accepted_options("norm_sgd") - accepted_options("sgd") == {"orth"}
    assert {"lr", "momentum", "nesterov"} <= accepted_options("orth_sgd")
    assert not {"self", "params", "args", "kwargs"} & accepted_options("orth_adam")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("orth_lasr", {}, "optim='orth_lasr' is not one of sgd.*did you mean orth_lars"),
        ("adam_w", {}, "did you mean adamw"),
        ("???", {}, r"optim='\?\?\?' is not one of [^(]*$"),
        ("orth_sgd", {"momentun": 0.9}, "momentun=0.9.*optim='orth_sgd'.*did you mean momentum"),
        ("sgd", {"polar": "svd"}, "polar='svd' is not an option of optim='sgd'"),
        ("lars", {"eta": 0.1}, "eta=0.1 is not an option.*trust_coefficient"),
    ],
)
def test_unknown_names_and_options_name_the_nearest(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_optimizer(name, [nn.Parameter(torch.ones(2, 2))], **{"lr": 0.1, **options})
