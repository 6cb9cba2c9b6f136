"""Momentum before the orthonormalisation: as the reference and as torch's Muon, in every optimizer."""

import copy
import pickle

import pytest
import torch
from helpers.matrices import nearest_orthonormal
from torch import nn
from torch.optim import SGD, Adam

from sslortho.optim import OrthAdam, OrthAdamW, OrthLARS, OrthSGD, orthogonal, reference
from sslortho.optim.momentum import BUFFER, apply_momentum_
from sslortho.optim.monitor import state_bytes

STEPS = 5
SHAPES = [(4, 6), (5, 5), (3, 2, 3, 3)]


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=generator).double()) for s in SHAPES]


def set_gradients(params, step: int) -> None:
    generator = torch.Generator().manual_seed(step + 1)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).double()


def train(cls, steps: int = STEPS, **options) -> list[nn.Parameter]:
    params = parameters()
    optimizer = cls(params, **options)
    for step in range(steps):
        set_gradients(params, step)
        optimizer.step()
    return params


def by_reference(rule, **options) -> list[nn.Parameter]:
    model = nn.ParameterList(parameters())
    roles = {name: reference.Role(1) for name, _ in model.named_parameters()}
    state = {}
    for step in range(STEPS):
        set_gradients(list(model), step)
        reference.take_step(model, roles, state, rule, **options)
    return list(model)


BASES = [
    (OrthSGD, reference.sgd_step, {"momentum": 0.0}),
    (OrthSGD, reference.sgd_step, {"momentum": 0.9, "weight_decay": 0.1}),
    (OrthAdam, reference.adam_step, {"betas": (0.9, 0.99)}),
    (OrthAdam, reference.adam_step, {"betas": (0.0, 0.99), "weight_decay": 0.1}),
    (OrthLARS, reference.lars_step, {"momentum": 0.0, "weight_decay": 0.1}),
    (OrthLARS, reference.lars_step, {"momentum": 0.9}),
]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("cls", "rule", "options"), BASES)
def test_steps_are_those_of_the_reference(cls, rule, options, nesterov):
    before = {"orth_momentum": 0.8, "orth_nesterov": nesterov}
    expected = by_reference(rule, lr=0.05, **options, **before)
    for foreach in (True, False):
        ours = train(cls, lr=0.05, foreach=foreach, **options, **before)
        for p, q in zip(ours, expected, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_order_of_torchs_muon(monkeypatch, nesterov):
    """With the exact factor in Muon, and matrices that are not tall, whose rate it does not change."""
    muon = pytest.importorskip("torch.optim._muon", reason="Muon came with torch 2.9")
    monkeypatch.setattr(
        muon, "_zeropower_via_newtonschulz", lambda matrix, *_: nearest_orthonormal(matrix)
    )
    ours, theirs = parameters()[:2], parameters()[:2]
    optimizer = OrthSGD(ours, lr=0.1, momentum=0, orth_momentum=0.95, nesterov=nesterov)
    other = torch.optim.Muon(theirs, lr=0.1, weight_decay=0, momentum=0.95, nesterov=nesterov)
    for step in range(STEPS):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step()
        other.step()
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)
            buffers = optimizer.state[p][BUFFER], other.state[q]["momentum_buffer"]
            torch.testing.assert_close(*buffers, rtol=1e-12, atol=1e-14)


def test_each_step_of_that_order_has_length_one():
    params = parameters()
    optimizer = OrthSGD(params, lr=1.0, momentum=0, orth_momentum=0.9)
    for step in range(STEPS):
        before = [p.detach().clone() for p in params]
        set_gradients(params, step)
        optimizer.step()
        for p, q in zip(params, before, strict=True):
            singular = torch.linalg.svdvals((p.detach() - q).flatten(1))
            torch.testing.assert_close(singular, torch.ones_like(singular))


def test_the_factor_does_not_depend_on_the_form_of_the_momentum():
    """A sum, as torch.optim.SGD keeps, has the same directions as the mean here."""
    params = parameters()
    sums = [torch.zeros_like(p) for p in params]
    ours = train(OrthSGD, lr=0.1, momentum=0, orth_momentum=0.7)
    for step in range(STEPS):
        set_gradients(params, step)
        for p, total in zip(params, sums, strict=True):
            total.mul_(0.7).add_(p.grad)
            factor = nearest_orthonormal(total.flatten(1)).reshape(p.shape)
            p.data -= 0.1 * factor
    for p, q in zip(ours, params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


def test_formulas_on_numbers():
    gradient, buffer = torch.tensor([[1.0]]), torch.tensor([[3.0]])
    apply_momentum_([gradient], [buffer], 0.75, nesterov=False)
    assert buffer.item() == gradient.item() == 0.75 * 3 + 0.25 * 1
    gradient, buffer = torch.tensor([[1.0]]), torch.tensor([[3.0]])
    apply_momentum_([gradient], [buffer], 0.75, nesterov=True)
    assert buffer.item() == 2.5
    assert gradient.item() == 0.25 * 1 + 0.75 * 2.5
    apply_momentum_([], [], 0.5, nesterov=True)


CLASSES = [
    (OrthSGD, {"momentum": 0.9}), (OrthAdam, {}), (OrthAdamW, {}), (OrthLARS, {}),
    *((orthogonal(getattr(torch.optim, name)), {})
      for name in ("RMSprop", "NAdam", "RAdam", "Adagrad", "Adamax", "Adadelta", "Rprop")),
]  # fmt: skip


@pytest.mark.parametrize(("cls", "options"), CLASSES)
def test_the_base_classes_keep_their_own_state(cls, options):
    """They take a state with anything in it for one that they have begun."""
    params, others = parameters(), parameters()
    optimizer = cls(params, lr=0.1, orth_momentum=0.5, **options)
    plain = cls(others, lr=0.1, **options)
    for step in range(2):
        set_gradients(params, step)
        set_gradients(others, step)
        optimizer.step()
        plain.step()
    for p, q in zip(params, others, strict=True):
        assert optimizer.state[p].keys() == plain.state[q].keys() | {BUFFER}
    added = state_bytes(optimizer) - state_bytes(plain)
    assert added == sum(p.numel() * p.element_size() for p in params)  # one buffer


# loading a state makes NAdam's float32 products float64, in torch too
@pytest.mark.parametrize(("cls", "options"), [c for c in CLASSES if c[0].__name__ != "OrthNAdam"])
def test_states_are_saved_loaded_and_copied(cls, options):
    values = {"lr": 0.1, "orth_momentum": 0.8, "orth_nesterov": True, **options}
    whole = train(cls, 4, **values)
    params = parameters()
    optimizer = cls(params, **values)
    for step in range(2):
        set_gradients(params, step)
        optimizer.step()
    saved = pickle.dumps(optimizer.state_dict())  # loading it shares no memory
    twin = copy.deepcopy(optimizer)
    for take in (lambda fresh: fresh, copy.deepcopy):
        copies = [nn.Parameter(p.detach().clone()) for p in params]
        fresh = take(cls(copies, **{**values, "orth_momentum": 0.1}))
        copies = fresh.param_groups[0]["params"]
        fresh.load_state_dict(pickle.loads(saved))
        assert fresh.param_groups[0]["orth_momentum"] == 0.8
        for step in (2, 3):
            set_gradients(copies, step)
            fresh.step()
        assert all(torch.equal(p, q) for p, q in zip(copies, whole, strict=True))
    twin = copy.deepcopy(optimizer)
    assert twin.state_dict()["state"][0][BUFFER].equal(optimizer.state_dict()["state"][0][BUFFER])


def test_a_state_of_before_goes_on_without_it():
    plain, params = parameters(), parameters()
    older = OrthSGD(plain, lr=0.1, momentum=0.9)
    set_gradients(plain, 0)
    older.step()
    saved = older.state_dict()
    for group in saved["param_groups"]:
        del group["orth_momentum"], group["orth_nesterov"]
    optimizer = OrthSGD(params, lr=0.1, momentum=0.9)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["orth_momentum"] == 0
    set_gradients(params, 1)
    optimizer.step()
    assert BUFFER not in optimizer.state[params[0]]


def test_an_error_of_the_base_class_loses_no_buffer(monkeypatch):
    params = parameters()
    optimizer = OrthAdam(params, lr=0.1, orth_momentum=0.5)
    set_gradients(params, 0)
    optimizer.step()
    monkeypatch.setattr(Adam, "step", lambda self: 1 / 0)
    set_gradients(params, 1)
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    assert all(BUFFER in optimizer.state[p] for p in params)


def test_groups_have_their_own_coefficient_and_raw_ones_none():
    params = parameters()
    bias = nn.Parameter(torch.ones(3).double())
    groups = [
        {"params": params[:1], "orth_momentum": 0.9},
        {"params": params[1:2]},
        {"params": [params[2]], "orth": False, "orth_momentum": 0.9},
        {"params": [bias], "orth_momentum": 0.9},
    ]
    optimizer = OrthSGD(groups, lr=0.1, orth_momentum=0.5)
    assert [g["orth_momentum"] for g in optimizer.param_groups] == [0.9, 0.5, 0.9, 0.9]
    set_gradients([*params, bias], 0)
    raw = [p.grad.clone() for p in (params[2], bias)]
    before = [p.detach().clone() for p in (params[2], bias)]
    optimizer.step()
    assert [BUFFER in optimizer.state[p] for p in (*params, bias)] == [True, True, False, False]
    for p, q, g in zip((params[2], bias), before, raw, strict=True):
        torch.testing.assert_close(p.detach(), q - 0.1 * g)


def test_gradients_that_are_missing_keep_their_buffer():
    params = parameters()
    optimizer = OrthSGD(params, lr=0.1, orth_momentum=0.5)
    set_gradients(params, 0)
    optimizer.step()
    buffer = optimizer.state[params[0]][BUFFER].clone()
    set_gradients(params, 1)
    params[0].grad = None
    optimizer.step()
    assert torch.equal(optimizer.state[params[0]][BUFFER], buffer)


def test_expanded_and_channels_last_gradients():
    weight = nn.Parameter(torch.randn(4, 3, 2, 2).double())
    plain = nn.Parameter(weight.detach().clone())
    first, second = (OrthSGD([p], lr=0.1, orth_momentum=0.5) for p in (weight, plain))
    for step in range(3):
        set_gradients([plain], step)
        weight.grad = plain.grad.to(memory_format=torch.channels_last).clone()
        if step == 2:
            weight.grad = torch.ones(1).double().expand(4, 3, 2, 2)
            plain.grad = torch.ones(4, 3, 2, 2).double()
        first.step()
        second.step()
        torch.testing.assert_close(weight, plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"orth_momentum": 1.0}, "orth_momentum=1.0 must be from 0 to below 1"),
        ({"orth_momentum": -0.1}, "orth_momentum=-0.1 must be"),
        ({"orth_momentum": float("nan")}, "orth_momentum=nan must be"),
        ({"orth_momentum": "0.9"}, "orth_momentum='0.9' must be"),
        ({"orth_nesterov": True}, "orth_nesterov=True has no effect on orth_momentum=0"),
        ({"orth_momentum": 0.5, "orth_nesterov": 1}, "orth_nesterov=1 must be True or False"),
        ({"nesterov": True}, "Nesterov momentum requires a momentum"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        OrthSGD(parameters(), lr=0.1, **options)


def test_nesterov_is_meant_for_the_momentum_that_there_is():
    before = OrthSGD(parameters(), lr=0.1, momentum=0, orth_momentum=0.9, nesterov=True)
    after = OrthSGD(parameters(), lr=0.1, momentum=0.9, nesterov=True)
    both = OrthSGD(parameters(), lr=0.1, momentum=0.9, orth_momentum=0.9, nesterov=True)
    lars = OrthLARS(parameters(), lr=0.1, momentum=0, orth_momentum=0.9, nesterov=True)
    names = ("nesterov", "orth_nesterov")
    found = [tuple(o.param_groups[0][n] for n in names) for o in (before, after, both, lars)]
    assert found == [(False, True), (True, False), (True, False), (False, True)]
    assert isinstance(before, SGD)


@pytest.mark.parametrize("cls", [OrthSGD, OrthLARS])
def test_nesterov_of_a_group_is_meant_for_the_momentum_that_it_has(cls):
    first, second, third = parameters()
    groups = [
        {"params": [first], "orth_momentum": 0.9, "nesterov": True},
        {"params": [second], "momentum": 0.9, "nesterov": True},
        {"params": [third]},
    ]
    optimizer = cls(groups, lr=0.1, momentum=0)
    names = ("nesterov", "orth_nesterov")
    found = [tuple(group[name] for name in names) for group in optimizer.param_groups]
    assert found == [(False, True), (True, False), (False, False)]


def test_a_group_without_that_momentum_needs_no_nesterov_for_it():
    first, second, third = parameters()
    optimizer = OrthSGD(
        [{"params": [first]}, {"params": [second], "orth_momentum": 0.0}],
        lr=0.1, momentum=0, orth_momentum=0.95, nesterov=True,
    )  # fmt: skip
    assert [group["orth_nesterov"] for group in optimizer.param_groups] == [True, False]
    with pytest.raises(ValueError, match="orth_nesterov=True has no effect on orth_momentum=0"):
        optimizer.add_param_group({"params": [third], "orth_momentum": 0, "orth_nesterov": True})


def test_nesterov_that_contradicts_itself_is_refused():
    no = {"nesterov": True, "orth_nesterov": False}
    with pytest.raises(ValueError, match="orth_nesterov=False is given; leave one of them out"):
        OrthSGD(parameters(), lr=0.1, momentum=0, orth_momentum=0.9, **no)
    optimizer = OrthSGD(parameters()[:2], lr=0.1, momentum=0, orth_momentum=0.9)
    with pytest.raises(ValueError, match="orth_nesterov=False is given; leave one of them out"):
        optimizer.add_param_group({"params": parameters()[2:], **no})
    assert len(optimizer.param_groups) == 1
    yes = OrthSGD(
        parameters(), lr=0.1, momentum=0, orth_momentum=0.9, nesterov=True, orth_nesterov=True
    )
    assert yes.param_groups[0]["orth_nesterov"]
    both = OrthSGD(parameters(), lr=0.1, momentum=0.9, orth_momentum=0.9, **no)
    assert (both.defaults["nesterov"], both.defaults["orth_nesterov"]) == (True, False)


@pytest.mark.slow
def test_a_compiled_step_is_the_same_step():
    params, others = parameters(), parameters()
    optimizers = [
        OrthSGD(p, lr=0.1, orth_momentum=0.8, polar="polar_express") for p in (params, others)
    ]
    compiled = torch.compile(optimizers[0].step, backend="aot_eager")
    for step in range(3):
        set_gradients(params, step)
        set_gradients(others, step)
        compiled()
        optimizers[1].step()
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)
