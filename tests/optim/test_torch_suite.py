"""torch's generic tests of optimizers, asked of every class of ours.

The options and the mistakes come from torch's own database (`torch.testing._internal.common_optimizers`);
the tests are those of its test/test_optim.py, written anew. Left out, and why:

- complex matrices: they have no place in the method; the error is tested in `test_wrapped`.
- `fused` and `differentiable`: refused with an error (`test_wrapped`).
- `capturable` on a CPU: torch has it on accelerators alone.
- sparse gradients of matrices: no nearest orthonormal matrix; the error is tested in `test_wrapped`.
- "gradients are never written to": ours are replaced in place, which is their contract.
- LBFGS, SparseAdam and torch's Muon: `orthogonal` refuses them. Ours has options of its own here.
"""

import copy
import io

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from sslortho.optim import LARS, Muon, OrthLARS, orthogonal
from sslortho.optim.momentum import BUFFER
from sslortho.optim.wrapped import REFUSED, ComponentNormSGD, NormSGD

pytest.importorskip("expecttest", reason="torch's own test helpers import it")
_frozen = torch.backends.flags_frozen()
from torch.testing._internal import common_optimizers as database  # noqa: E402

if not _frozen:  # that import forbids other tests of this process to set torch's flags
    # `torch.backends` stands in for the module that holds the flag
    torch.backends.flags_frozen.__globals__["__allow_nonbracketed_mutation_flag"] = True

INFOS = {info.optim_cls: info for info in database.optim_db}
# the suite gives all groups of Muon one rate
pytestmark = pytest.mark.filterwarnings("ignore:AdamW steps the group")

WRAPPED = [cls for cls in INFOS if cls.__name__ not in REFUSED]
OF_LARS = [
    {},
    {"lr": 0.1},
    {"lr": torch.tensor(0.1)},
    {"weight_decay": 0.5},
    {"momentum": 0.0},
    {"weight_decay": 0.1, "maximize": True},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"trust_coefficient": None, "lr": 1e-3},
    {"exempt_1d": False, "trust_coefficient": 0.01},
]
"""Options of LARS in the manner of torch's of SGD, with rates that fit it."""

OF_MUON = [
    {},
    {"lr": 0.01, "adamw_lr": 0.01},
    {"lr": torch.tensor(0.01), "adamw_lr": torch.tensor(0.01)},
    {"weight_decay": 0.5},
    {"weight_decay": 0.1, "decoupled_weight_decay": False},
    {"momentum": 0.0, "scale": "none"},
    {"nesterov": False, "scale": "moonlight", "normalise_rows": 0.9},
    {"scale": "spectral", "polar": "muon"},
    {"betas": (0.8, 0.99), "eps": 1e-8},
]
"""Options of Muon in the same manner."""

EVERY = [
    *[(orthogonal(cls), cls) for cls in WRAPPED],
    (NormSGD, torch.optim.SGD),
    (ComponentNormSGD, torch.optim.SGD),
    (LARS, None),
    (OrthLARS, None),
    (Muon, None),
]
CLASSES = [cls for cls, _ in EVERY]
BASES = dict(EVERY)


def test_torchs_flags_can_still_be_set():
    assert torch.backends.flags_frozen() is _frozen


ids = lambda value: getattr(value, "__name__", None)  # noqa: E731


def options_of(cls) -> list[dict]:
    """Fresh options: a rate that is a tensor must not be shared by tests."""
    base = BASES[cls]
    if base is None:
        found = copy.deepcopy(OF_MUON if cls is Muon else OF_LARS)
    else:
        found = [dict(each.kwargs) for each in INFOS[base].optim_inputs_func(device="cpu")]
    return [options for options in found if not options.get("capturable")]


def options_both_ways(cls) -> list[dict]:
    """Options with foreach where torch takes it, and the first without: `test_foreach_is_the_loop`."""
    found = [{**options_of(cls)[0], "foreach": False}]
    for options in options_of(cls):
        betas = options.get("betas", ())
        tensors = any(isinstance(x, torch.Tensor) for x in (options.get("lr"), *betas))
        found.append({**options, "foreach": not tensors})
    return found


def draw_problem(dtype=torch.float32, contiguous=True):
    generator = torch.Generator().manual_seed(0)
    shapes = ((10, 5), (10,)) if contiguous else ((10, 5, 2), (10, 2))
    drawn = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    weight, bias = (nn.Parameter(x if contiguous else x[..., 0]) for x in drawn)
    return weight, bias, torch.randn(5, generator=generator, dtype=dtype)


def closure_of(optimizer, weight, bias, x):
    def closure():
        optimizer.zero_grad()
        loss = (weight.mv(x) + bias).square().sum()
        loss.backward()
        return loss

    return closure


def assert_right_direction(first, last, options) -> None:
    if options.get("maximize"):
        assert last > first
    else:
        assert last < first


def test_every_optimizer_of_torch_is_wrapped_or_refused():
    public = {
        cls
        for cls in vars(torch.optim).values()
        if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)
    }
    assert {cls.__name__ for cls in public - {torch.optim.Optimizer}} == (
        {cls.__name__ for cls in WRAPPED} | ({cls.__name__ for cls in public} & set(REFUSED))
    )


@pytest.mark.parametrize("cls", CLASSES, ids=ids)
def test_mistakes_are_told_in_torchs_words(cls):
    base = BASES[cls] or torch.optim.SGD
    for error in INFOS[base].optim_error_inputs_func(device="cpu", dtype=torch.float32):
        params, options = error.optimizer_error_input.params, error.optimizer_error_input.kwargs
        if "fused" in options or "complex" in error.error_regex:
            continue
        assert error.error_on == database.OptimizerErrorEnum.CONSTRUCTION_ERROR
        if issubclass(error.error_type, Warning):
            with pytest.warns(error.error_type, match=error.error_regex):
                cls(params, **options)
        else:
            with pytest.raises(error.error_type, match=error.error_regex):
                cls(params, **options)


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("cls", CLASSES, ids=ids)
def test_twenty_steps_go_the_right_way(cls, contiguous):
    for options in options_both_ways(cls):
        weight, bias, x = draw_problem(contiguous=contiguous)
        optimizer = cls([weight, bias], **options)
        closure = closure_of(optimizer, weight, bias, x)
        first = closure().item()
        for _ in range(20):
            optimizer.step(closure)
        assert_right_direction(first, closure().item(), options)


@pytest.mark.parametrize("cls", CLASSES, ids=ids)
def test_schedulers_and_a_group_with_its_own_rate_go_the_right_way(cls):
    info = INFOS[BASES[cls] or torch.optim.SGD]
    for constructors in info.scheduler_inputs:
        weight, bias, x = draw_problem()
        optimizer = cls([{"params": [weight]}, {"params": [bias], "lr": 0.01}])
        schedulers = [make(optimizer) for make in constructors]
        closure = closure_of(optimizer, weight, bias, x)
        first = closure().item()
        for _ in range(20):
            loss = optimizer.step(closure).detach()
            for scheduler in schedulers:
                plateau = isinstance(scheduler, ReduceLROnPlateau)
                scheduler.step(loss) if plateau else scheduler.step()
        assert closure().item() < first


@pytest.mark.parametrize("cls", CLASSES, ids=ids)
def test_a_rate_that_is_a_tensor_is_that_number(cls):
    for options in options_of(cls):
        # without foreach: with it torch refuses tensors in some classes
        options = {**options, "lr": 1e-3, "foreach": False}
        results = []
        for lr in (1e-3, torch.tensor(1e-3)):
            weight, bias, x = draw_problem()
            optimizer = cls([weight, bias], **{**options, "lr": lr})
            closure = closure_of(optimizer, weight, bias, x)
            for _ in range(5):
                optimizer.step(closure)
            results.append((weight.detach(), bias.detach()))
        torch.testing.assert_close(results[0], results[1])


def network(dtype):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1), nn.Sigmoid())
    return model.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("cls", CLASSES, ids=ids)
def test_foreach_is_the_loop(cls, dtype):
    """With a layer frozen and freed, a step without gradients, and a parameter of no dimension."""
    x = torch.linspace(0.1, 0.6, 6, dtype=dtype).view(3, 2)
    for options in options_of(cls):
        betas = options.get("betas", ())
        if any(isinstance(value, torch.Tensor) for value in (options.get("lr"), *betas)):
            continue  # torch takes these without foreach alone
        models = [network(dtype) for _ in range(2)]
        scalars = [torch.tensor(0.5, dtype=dtype, requires_grad=True) for _ in range(2)]
        optimizers = []
        for model, scalar, foreach in zip(models, scalars, (False, True), strict=True):
            scalar.grad = torch.tensor(0.7, dtype=dtype)
            optimizers.append(cls([*model.parameters(), scalar], **options, foreach=foreach))
        for step in range(7):
            for model, optimizer in zip(models, optimizers, strict=True):
                optimizer.zero_grad()
                model[2].requires_grad_(step not in (3, 4))
                if step != 2:
                    model(x).sum().backward()
                optimizer.step()
            pairs = zip(models[0].parameters(), models[1].parameters(), strict=True)
            for p, q in pairs:
                torch.testing.assert_close(p, q)
                states = [dict(o.state[r]) for o, r in zip(optimizers, (p, q), strict=True)]
                torch.testing.assert_close(states[0], states[1])
                with torch.no_grad():  # as torch does: differences must not add up
                    q.copy_(p)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["lr", "weight_decay"])
@pytest.mark.parametrize("cls", CLASSES, ids=ids)
def test_options_of_groups_are_used(cls, what):
    for options in options_both_ways(cls):
        weight, bias, x = draw_problem()
        aside = nn.Parameter(torch.ones(2))
        inner = {"params": [weight, bias], "lr": 1e-3, **options}
        outer = {"lr": 1e-28}
        if cls.__name__ == "OrthRprop":
            outer["step_sizes"] = (0, 50)
        if cls is Muon:
            outer["adamw_lr"] = 1e-28
        if what == "weight_decay" and "weight_decay" not in cls([weight]).defaults:
            continue
        if what == "weight_decay":
            inner["weight_decay"] = 0.01
        optimizer = cls([inner, {"params": [aside]}], **outer)
        closure = closure_of(optimizer, weight, bias, x)
        first = closure().item()
        for _ in range(20):
            closure()
            aside.grad = torch.rand(2)
            optimizer.step()
        assert_right_direction(first, closure().item(), options)
        torch.testing.assert_close(aside.detach(), torch.ones(2))


@pytest.mark.parametrize("cls", CLASSES, ids=ids)
def test_nothing_moves_without_gradients_or_with_gradients_of_zero(cls):
    for options in options_both_ways(cls):
        parameter = nn.Parameter(torch.randn(5, 1))
        before = parameter.detach().clone()
        for gradient in (None, torch.zeros(5, 1)):
            decays = {**cls([parameter]).defaults, **options}.get("weight_decay", 0) != 0
            decays |= BASES[cls] is torch.optim.ASGD  # by its `lambd`
            if gradient is not None and decays:
                continue
            parameter.grad = gradient
            optimizer = cls([parameter], **options)
            assert optimizer.step(lambda: torch.tensor([1.0])) == 1
            assert repr(optimizer)
            torch.testing.assert_close(parameter.detach(), before)


@pytest.mark.slow
@pytest.mark.parametrize("names", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("cls", CLASSES, ids=ids)
def test_a_loaded_state_goes_on_the_same(cls, names):
    def named(parameters, with_names):
        return [(f"name{i}", p) for i, p in enumerate(parameters)] if with_names else parameters

    def without_names(state):
        state = copy.deepcopy(state)
        for group in state["param_groups"]:
            group.pop("param_names", None)
        return state

    for options in options_both_ways(cls):
        weight, bias, x = draw_problem()
        optimizer = cls(named([weight, bias], names[0]), **options)
        for _ in range(3):
            optimizer.step(closure_of(optimizer, weight, bias, x))
        twins = [nn.Parameter(p.detach().clone()) for p in (weight, bias)]
        twin = cls(named(twins, names[1]), **copy.deepcopy(options))
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        twin.load_state_dict(torch.load(file, weights_only=True))
        for _ in range(3):
            optimizer.step(closure_of(optimizer, weight, bias, x))
            twin.step(closure_of(twin, *twins, x))
        torch.testing.assert_close([weight, bias], twins, rtol=0, atol=0)
        states = [without_names(each.state_dict()) for each in (optimizer, twin)]
        assert states[0]["param_groups"] == states[1]["param_groups"]
        torch.testing.assert_close(states[0]["state"], states[1]["state"], rtol=0, atol=0)


@pytest.mark.parametrize("cls", CLASSES, ids=ids)
def test_older_states_and_steps_that_are_numbers_load(cls):
    flags = INFOS[BASES[cls] or torch.optim.SGD].not_og_supported_flags
    for options in options_both_ways(cls):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(4, 2, 1, stride=2), nn.BatchNorm2d(2))
        optimizer = cls(model.parameters(), **options)
        images = torch.rand(1, 4, 16, 16)
        for attempt in range(3):
            for _ in range(2):
                optimizer.zero_grad()
                model(images).sum().backward()
                optimizer.step()
            state = copy.deepcopy(optimizer.state_dict())
            for group in state["param_groups"] if attempt == 0 else ():
                for flag in flags:
                    group.pop(flag, None)
            for slot in state["state"].values() if attempt == 1 else ():
                if torch.is_tensor(slot.get("step")):
                    slot["step"] = slot["step"].item()
            whole = copy.deepcopy(optimizer.state_dict())
            optimizer.load_state_dict(state)
            loaded = copy.deepcopy(optimizer.state_dict())
            names = [[set(g) for g in s["param_groups"]] for s in (loaded, whole)]
            assert names[0] == names[1]
            # Muon keeps a step that is a number until the next step
            for slot in (*loaded["state"].values(), *whole["state"].values()):
                slot.update({n: float(v) for n, v in slot.items() if n == "step"})
            torch.testing.assert_close(loaded["state"], whole["state"], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("cls", CLASSES, ids=ids)
def test_a_state_loads_into_parameters_of_another_precision(cls, dtype):
    weight, bias, x = draw_problem()
    optimizer = cls([weight, bias], foreach=True)
    for _ in range(3):
        optimizer.step(closure_of(optimizer, weight, bias, x))
    others = [nn.Parameter(p.detach().to(dtype)) for p in (weight, bias)]
    other = cls(others, foreach=True)
    other.load_state_dict(optimizer.state_dict())
    for parameter in others:
        for value in other.state[parameter].values():
            wide = cls is Muon or value is other.state[parameter].get(BUFFER)
            expected = torch.promote_types(dtype, torch.float32) if wide else dtype
            assert not torch.is_tensor(value) or value.ndim == 0 or value.dtype == expected
    other.step(closure_of(other, *others, x.to(dtype)))
    assert all(p.dtype == dtype for p in others)
    if dtype != torch.float16:  # there torch's eps of 1e-8 is zero
        assert all(p.isfinite().all() for p in others)


def count_hooks(cls, options) -> tuple[list, list]:
    """Calls of the hooks of a saved and a loaded state, and of two steps."""
    parameter = torch.rand(2, 3, requires_grad=True)
    optimizer = cls([parameter], **options)
    of_states, of_steps = [], []
    optimizer.register_state_dict_pre_hook(lambda o: of_states.append("save pre"))
    optimizer.register_state_dict_post_hook(lambda o, state: of_states.append("save post"))
    optimizer.register_load_state_dict_pre_hook(
        lambda o, state: state["param_groups"][0].update(lr=0.002)
    )
    optimizer.register_load_state_dict_post_hook(lambda o: of_states.append("load post"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.002
    handles = [
        register_optimizer_step_pre_hook(lambda *_: of_steps.append(0)),
        register_optimizer_step_post_hook(lambda *_: of_steps.append(5)),
        optimizer.register_step_pre_hook(lambda *_: of_steps.append(1)),
        optimizer.register_step_post_hook(lambda *_: of_steps.append(2)),
    ]
    parameter.grad = torch.rand(2, 3)
    try:
        for _ in range(2):
            optimizer.step()
    finally:
        for handle in handles:
            handle.remove()
    optimizer.step()
    return of_states, of_steps


@pytest.mark.parametrize("cls", CLASSES, ids=ids)
def test_hooks_of_states_and_steps_run_once_and_in_order(cls):
    for options in options_both_ways(cls):
        of_states, of_steps = count_hooks(cls, options)
        assert of_states == ["save pre", "save post", "load post"]
        assert of_steps == [0, 1, 2, 5] * 2


@pytest.mark.parametrize("cls", CLASSES, ids=ids)
def test_copies_have_all_attributes_and_state_is_kept_for_each_parameter(cls):
    for options in options_both_ways(cls):
        parameters = [nn.Parameter(torch.randn(2, 3)) for _ in range(2)]
        optimizer = cls(parameters, **options)
        for _ in range(3):
            for p in parameters:
                p.grad = torch.rand(2, 3)
            optimizer.step()
        names = {name for name in vars(optimizer) if not name.startswith("_")}
        assert names == {n for n in vars(copy.deepcopy(optimizer)) if not n.startswith("_")}
        assert all(len(state) > 0 for state in optimizer.state.values())


@pytest.mark.parametrize("cls", CLASSES, ids=ids)
def test_empty_groups_and_parameters_without_gradients_are_no_matter(cls):
    for foreach in (False, True):
        weight, bias, x = draw_problem()
        still = nn.Parameter(torch.ones(3, 3))
        frozen = nn.Parameter(torch.ones(3, 3), requires_grad=False)
        groups = [{"params": []}, {"params": [weight, still]}, {"params": [bias, frozen]}]
        optimizer = cls(groups, foreach=foreach)
        closure = closure_of(optimizer, weight, bias, x)
        first = closure().item()
        for _ in range(5):
            optimizer.step(closure)
        assert closure().item() < first
        assert torch.equal(still, torch.ones(3, 3))
        assert torch.equal(frozen, torch.ones(3, 3))


# Other rates than 0.03, where a step is relative to something else
RATES = {"OrthAdadelta": 1.0, "OrthAdafactor": 0.05, "OrthAdagrad": 0.1}
RATES |= {"LARS": 2.0, "OrthLARS": 2.0}


@pytest.mark.slow
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("cls", CLASSES, ids=ids)
def test_a_convex_loss_falls_to_a_tenth(cls, foreach):
    """Least squares of a full-rank problem in three hundred steps."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 6, generator=generator)
    truth = torch.randn(4, 6, generator=generator)
    weight, bias = nn.Parameter(torch.zeros(4, 6)), nn.Parameter(torch.zeros(4))
    with torch.no_grad():
        weight += 0.1 * torch.randn(4, 6, generator=generator)
    optimizer = cls([weight, bias], lr=RATES.get(cls.__name__, 0.03), foreach=foreach)
    losses = []
    for _ in range(300):
        optimizer.zero_grad()
        loss = (inputs @ (weight - truth).T + bias).square().mean()
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]


def test_lars_takes_complex_parameters_as_their_real_views():
    """Elementwise, but for its norms, which are the same; ours of matrices refuse them."""
    for foreach in (False, True):
        values = torch.randn(5, 3, dtype=torch.complex64)
        parameter = nn.Parameter(values.clone())
        real = nn.Parameter(torch.view_as_real(values).clone())
        optimizers = [LARS([p], lr=0.5, foreach=foreach) for p in (parameter, real)]
        for _ in range(3):
            parameter.grad = torch.randn(5, 3, dtype=torch.complex64)
            real.grad = torch.view_as_real(parameter.grad).clone()
            for optimizer in optimizers:
                optimizer.step()
        torch.testing.assert_close(torch.view_as_real(parameter.detach()), real.detach())
