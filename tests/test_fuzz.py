"""Anything at all, given to command lines, to files of options and to the optimizers."""

import contextlib
import copy
import io
import math
import types
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Literal, Union, get_args, get_origin

import pytest
import torch
import yaml
from helpers.option_classes import OPTION_CLASSES
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sslortho.optim import OPTIMIZERS, OrthSGD, create_optimizer
from sslortho.optim.components import VIEWS
from sslortho.optim.polar_factor import METHODS
from sslortho.optim.registry import accepted_options
from sslortho.recipes.command_line import parse_options
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.write_beton.options import WriteBetonOptions
from sslortho.runs.config_file import to_yaml

REQUIRED = {"backbone_from": "x", "data_dir": "x", "format": "hub", "out": "x.beton"}
"""Options that some configuration cannot do without."""


def required(config):
    """Arguments that a command needs; without them it refuses whatever is drawn."""
    given = [f"--{f.name}={REQUIRED[f.name]}" for f in fields(config) if f.default is MISSING]
    return [*given, "--data=digits"] if config is WriteBetonOptions else given


def fuzzed(examples):
    """The same examples every time, whatever the machine's speed."""
    return settings(
        max_examples=examples, deadline=None, phases=[Phase.generate], derandomize=True, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )  # fmt: skip


def has_type(value, wanted):
    """Whether a value is of a field's declared type."""
    kind, inner = get_origin(wanted), get_args(wanted)
    if kind in (types.UnionType, Union):
        return any(has_type(value, one) for one in inner)
    if kind is Literal:
        return value in inner
    if kind is tuple:
        return isinstance(value, tuple) and all(has_type(v, inner[0]) for v in value)
    if wanted is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is (wanted or types.NoneType)


def parse(config, arguments):
    """The configuration, or None having checked that it was refused in one line."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            return parse_options(config, arguments)
    except SystemExit as end:
        if end.code:
            assert end.code == 2  # noqa: PT017
            assert errors.getvalue().strip().count("\n") == 0, errors.getvalue()
        return None


VALUES = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["true", "null", "[]", "{}", "[0.9, 0.99]", "lars", "orth_lars", "auto", "", "~", "1e-3"]),
    st.text(max_size=8),
)  # fmt: skip


@pytest.mark.slow
@fuzzed(60)
@given(st.data())
def test_a_command_line_is_a_configuration_or_one_line(data):
    config = data.draw(st.sampled_from(OPTION_CLASSES))
    names = [f.name for f in fields(config) if f.name != "debug"]  # which asks for the traceback
    chosen = data.draw(st.lists(st.sampled_from(names), max_size=3, unique=True))
    arguments = [f"--{name}={data.draw(VALUES)}" for name in chosen]
    parsed = parse(config, [*required(config), *arguments])
    if parsed is not None:
        for f in fields(config):
            assert has_type(getattr(parsed, f.name), f.type), (f.name, getattr(parsed, f.name))


@pytest.mark.slow
@fuzzed(60)
@given(
    text=st.one_of(st.text(max_size=40), st.binary(max_size=40)),
    config=st.sampled_from(OPTION_CLASSES),
)
def test_a_file_of_options_is_a_configuration_or_one_line(tmp_path, text, config):
    path = tmp_path / "options.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    parse(config, ["--config", str(path)])


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


@pytest.mark.slow
@fuzzed(60)
@given(data=st.data())
def test_any_value_in_a_file_has_its_type_or_is_refused(tmp_path, data):
    config = data.draw(st.sampled_from(OPTION_CLASSES))
    names = st.sampled_from([f.name for f in fields(config)]) | st.text(max_size=5)
    options = data.draw(st.dictionaries(names, ANYTHING, min_size=1, max_size=2))
    path = tmp_path / "options.yaml"
    path.write_text(yaml.safe_dump(options), encoding="utf-8")
    parsed = parse(config, [*required(config), "--config", str(path)])
    if parsed is not None:
        assert set(options) <= {f.name for f in fields(config)}
        for f in fields(config):
            assert has_type(getattr(parsed, f.name), f.type), (f.name, getattr(parsed, f.name))


@pytest.mark.slow
@fuzzed(15)
@given(
    lr=st.floats(0, 1e6), epochs=st.integers(1, 10**6), seed=st.integers(0, 2**32 - 1),
    out=st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=20),
    betas=st.none() | st.tuples(st.floats(0, 0.9999), st.floats(0, 0.9999)), compile=st.booleans(),
)  # fmt: skip
def test_a_configuration_survives_its_yaml(tmp_path, **options):
    config = PretrainOptions.of(optim="adam", warmup_epochs=0, **options)
    path = Path(tmp_path) / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert parse_options(PretrainOptions, ["--config", str(path)]) == config


SHAPES = st.one_of(
    st.just(()),
    st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple),
)
FILLS = {
    "normal": lambda shape: torch.randn(shape),
    "zero": torch.zeros,
    "equal": torch.ones,
    "tiny": lambda shape: 1e-30 * torch.randn(shape),
    "huge": lambda shape: 1e15 * torch.randn(shape),
    "nan": lambda shape: torch.full(shape, math.nan),
    "inf": lambda shape: torch.full(shape, math.inf),
    "none": lambda shape: None,
}


def make_parameter(shape, fill, dtype, strided):
    parameter = torch.randn(shape, dtype=dtype)
    if strided and len(shape) == 4:
        parameter = parameter.to(memory_format=torch.channels_last)
    elif strided and len(shape) == 2:
        parameter = parameter.t().contiguous().t()
    parameter.requires_grad_()
    gradient = FILLS[fill](shape)
    if gradient is not None:
        parameter.grad = torch.empty_like(parameter).copy_(gradient)
    return parameter


DTYPES = [torch.float32, torch.float64, torch.bfloat16]
"""float16 is left out: the squares of large gradients that adam keeps are not in its range."""

PARAMETERS = st.lists(
    st.tuples(
        SHAPES, st.sampled_from(sorted(FILLS)), st.sampled_from(DTYPES), st.booleans(),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "weight_decay": st.floats(0, 0.1), "momentum": st.floats(0, 0.99), "nesterov": st.booleans(),
        "trust_coefficient": st.none() | st.floats(1e-6, 1), "exempt_1d": st.booleans(),
        "polar": st.sampled_from(METHODS), "rank_tol": st.none() | st.floats(0, 0.9),
        "orth": st.booleans(), "orth_components": st.integers(0, 3),
        "orth_view": st.sampled_from(VIEWS), "foreach": st.booleans(),
        "betas": st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)),
    },
)  # fmt: skip
"""Those that an optimizer has not are not given to it."""


def create(name, parameters, options):
    """The optimizer; None where the options contradict each other or the shapes."""
    accepted = accepted_options(name)
    options = {option: value for option, value in options.items() if option in accepted}
    try:
        return create_optimizer(name, parameters, lr=0.1, **options)
    except ValueError as error:
        assert any(option in str(error).lower() for option in options)  # noqa: PT017
        return None


@pytest.mark.slow
@fuzzed(200)
@given(
    name=st.sampled_from(sorted(OPTIMIZERS)), drawn=PARAMETERS, options=OPTIONS,
    seed=st.integers(0, 100),
)  # fmt: skip
def test_a_step_keeps_finite_what_had_finite_gradients(name, drawn, options, seed):
    torch.manual_seed(seed)
    parameters = [make_parameter(*each) for each in drawn]
    optimizer = create(name, parameters, options)
    if optimizer is None:
        return
    before = [p.detach().clone() for p in parameters]
    optimizer.step()
    optimizer.step()
    for parameter, old, (_, fill, _, _) in zip(parameters, before, drawn, strict=True):
        if fill == "none":
            assert torch.equal(parameter, old)
        elif fill not in ("nan", "inf"):
            assert parameter.isfinite().all(), fill
    check_goes_on_alike(name, optimizer, parameters, options)


def check_goes_on_alike(name, optimizer, parameters, options):
    """An optimizer of the same state, on the same gradients, takes the same step."""
    copies = [p.detach().clone().requires_grad_() for p in parameters]
    again = create(name, copies, options)
    assert again is not None
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for parameter, other in zip(parameters, copies, strict=True):
        other.grad = None if parameter.grad is None else parameter.grad.clone()
    optimizer.step()
    again.step()
    for parameter, other in zip(parameters, copies, strict=True):
        assert torch.equal(parameter.nan_to_num(), other.nan_to_num())
        assert torch.equal(parameter.isnan(), other.isnan())


@fuzzed(60)
@given(
    name=st.sampled_from(sorted(OPTIMIZERS)),
    lr=st.one_of(st.floats(width=32), st.none(), st.text(max_size=3), st.integers(-3, 3)),
)
def test_a_rate_is_taken_or_refused(name, lr):
    parameter = torch.ones(2, 3, requires_grad=True)
    parameter.grad = torch.ones(2, 3)
    try:
        optimizer = create_optimizer(name, [parameter], lr=lr)
    except (ValueError, TypeError):
        assert not (isinstance(lr, (int, float)) and 0 <= lr < math.inf)
        return
    assert lr >= 0
    optimizer.step()


@pytest.mark.parametrize("value", [1, 1.5, None, "x", True])
def test_types_are_told_apart(value):
    assert has_type(value, int | None) == (value in (1, None) and value is not True)


@fuzzed(60)
@given(
    shape=st.lists(st.integers(1, 6), min_size=2, max_size=4).map(tuple), strided=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]), seed=st.integers(0, 100),
    polar=st.sampled_from(["auto", "svd", "gram_eigh"]), scale=st.floats(-20, 10),
)  # fmt: skip
def test_a_step_is_orthonormal_where_the_gradient_has_full_rank(
    shape, strided, dtype, seed, polar, scale
):
    torch.manual_seed(seed)
    parameter = make_parameter(shape, "normal", dtype, strided)
    assert parameter.grad is not None
    parameter.grad *= 10**scale
    before = parameter.detach().clone()
    OrthSGD([parameter], lr=1.0, polar=polar).step()
    step = (before - parameter.detach()).flatten(1).double()
    short = step @ step.mT if step.shape[0] <= step.shape[1] else step.mT @ step
    torch.testing.assert_close(short, torch.eye(len(short)).double(), atol=1e-4, rtol=0)
