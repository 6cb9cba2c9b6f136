"""Checks of numbers: our form of each message, and the form that other projects' tests look for."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from sslortho.optim import LARS, Muon, OrthAdam, OrthAdamW, OrthLARS, OrthSGD, create_optimizer
from sslortho.optim.wrapped import NormSGD


def parameters():
    return [nn.Parameter(torch.ones(3, 2))]


def torch_message(**options):
    """Message of torch's own SGD of the options."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        torch.optim.SGD(parameters(), **options)
    return str(caught.value)


@pytest.mark.parametrize("cls", [LARS, OrthLARS, OrthSGD, OrthAdam, OrthAdamW, NormSGD])
@pytest.mark.parametrize("name", ["lr", "weight_decay", "momentum"])
@pytest.mark.parametrize("value", [-0.5, -1, torch.tensor(-0.5)], ids=str)
def test_messages_hold_torchs_words_and_our_own(cls, name, value):
    if name == "momentum" and issubclass(cls, torch.optim.Adam):
        return
    theirs = torch_message(**{name: value})
    for make in (
        lambda: cls(parameters(), **{"lr": 0.1, name: value}),
        lambda: cls([{"params": parameters(), name: value}], lr=0.1),
    ):
        with pytest.raises(ValueError, match="must be 0 or more, and finite") as caught:
            make()
        assert theirs in str(caught.value)
        assert f"{name}={value!r}" in str(caught.value)


@pytest.mark.parametrize("cls", [LARS, OrthSGD, OrthAdamW])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.1", None], ids=str)
def test_numbers_that_torch_lets_through_are_refused(cls, value):
    with pytest.raises(ValueError, match=r"lr=.* must be 0 or more, and finite"):
        cls(parameters(), lr=value)
    with pytest.raises(ValueError, match=r"lr=.* must be 0 or more, and finite"):
        cls(parameters(), value)  # by position


@pytest.mark.parametrize("cls", [LARS, OrthLARS, OrthSGD, OrthAdam, NormSGD])
def test_a_tensor_of_several_rates_is_refused_in_torchs_words(cls):
    with pytest.raises(
        ValueError, match=r"Tensor lr must be 1-element \(lr=tensor of shape \(2,\)\)"
    ):
        cls(parameters(), lr=torch.tensor([0.1, 0.2]))


@pytest.mark.parametrize("cls", [LARS, OrthLARS, OrthSGD])
@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), 1, torch.tensor([0.5])])
def test_other_kinds_of_numbers_are_taken(cls, value):
    if cls is OrthSGD and isinstance(value, torch.Tensor) and torch.__version__ < "2.7":
        pytest.skip("torch 2.6 steps its own SGD with foreach by plain numbers only")
    (parameter,) = group = parameters()
    parameter.grad = torch.ones(3, 2)
    scalar = nn.Parameter(torch.tensor(1.0))
    scalar.grad = torch.tensor(1.0)
    for foreach in (True, False):
        cls([*group, scalar], lr=value, foreach=foreach).step()
    assert (parameter < 1).all()
    assert scalar.item() == pytest.approx(1 - 2 * float(value))


@pytest.mark.parametrize("cls", [LARS, OrthLARS, OrthSGD])
def test_nesterov_without_momentum_is_refused_in_torchs_words(cls):
    with pytest.raises(ValueError, match="Nesterov momentum requires a momentum"):
        cls(parameters(), lr=0.1, momentum=0.0, nesterov=True)


def test_create_optimizer_says_it_in_both_forms():
    with pytest.raises(ValueError, match=r"Invalid weight_decay value: -1 \(weight_decay=-1 must"):
        create_optimizer("orth_sgd", parameters(), lr=0.1, weight_decay=-1)


@pytest.mark.parametrize("cls", [OrthAdam, OrthAdamW])
@pytest.mark.parametrize(
    "make",
    [
        lambda cls, p: cls(p, torch.tensor(0.1)),
        lambda cls, p: cls(p, lr=torch.tensor(0.1)),
        lambda cls, p: cls([{"params": p, "lr": torch.tensor(0.1)}], lr=0.5),
        lambda cls, p: cls(p, lr=0.1, betas=(torch.tensor(0.9), torch.tensor(0.999))),
    ],
    ids=["position", "keyword", "group", "betas"],
)
def test_tensors_as_options_work_as_in_the_plain_class(cls, make):
    """With foreach=True, our default, torch refuses them."""
    results = []
    for kind in (cls, cls.__bases__[-1]):
        (parameter,) = group = parameters()
        optimizer = make(kind, group)
        for _ in range(3):
            parameter.grad = torch.eye(3, 2)  # is its own polar factor
            optimizer.step()
        results.append(parameter.detach())
    torch.testing.assert_close(results[0], results[1])


def test_foreach_is_the_default_and_an_explicit_one_is_kept():
    for foreach in (True, False, None):
        (group,) = OrthSGD(parameters(), lr=0.1, foreach=foreach).param_groups
        assert group["foreach"] is foreach
    assert OrthSGD(parameters(), 0.1).param_groups[0]["foreach"] is True


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("cls", [LARS, OrthLARS, OrthSGD, OrthAdam, NormSGD])
def test_copies_have_all_public_attributes(cls, duplicate):
    optimizer = cls(parameters(), lr=0.1)
    names = {name for name in vars(optimizer) if not name.startswith("_")}
    assert names == {name for name in vars(duplicate(optimizer)) if not name.startswith("_")}


@pytest.mark.parametrize("group", [3, "weights", [1, 2]])
def test_a_group_that_is_no_dictionary_is_torchs_error(group):
    optimizer = OrthSGD(parameters(), lr=0.1)
    with pytest.raises(TypeError, match="param_group must be a dict"):
        optimizer.add_param_group(group)


@pytest.mark.parametrize("make", [LARS, OrthLARS, Muon])
def test_foreach_none_lets_the_optimizer_choose_as_in_torch(make):
    parameters = [torch.nn.Parameter(torch.ones(3, 2)) for _ in range(2)]
    optimizer = make(parameters[:1], foreach=None)
    optimizer.add_param_group({"params": parameters[1:], "foreach": None})
    assert all(group["foreach"] is True for group in optimizer.param_groups)
    with pytest.raises(ValueError, match="foreach='yes' must be True, False or None"):
        make(parameters[:1], foreach="yes")
