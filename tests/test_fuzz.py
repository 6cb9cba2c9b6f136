"""Anything at all, given to command lines, to files of options and to the optimizers."""

import contextlib
import copy
import io
import math
import types
from dataclasses import fields
from pathlib import Path
from typing import Literal, Union, get_args, get_origin

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sslortho.config import (
    ChaosConfig,
    KnnEvalConfig,
    LinearEvalConfig,
    PretrainConfig,
    SupervisedConfig,
    WriteBetonConfig,
    parse_config,
    to_yaml,
)
from sslortho.optim import OPTIMIZERS, create_optimizer

CONFIGS = (
    ChaosConfig, KnnEvalConfig, LinearEvalConfig, PretrainConfig, SupervisedConfig, WriteBetonConfig,
)  # fmt: skip


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
            return parse_config(config, arguments)
    except SystemExit as end:
        if end.code:
            assert end.code == 2  # noqa: PT017
            assert errors.getvalue().strip().count("\n") == 0, errors.getvalue()
        return None


VALUES = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["true", "null", "[]", "{}", "[0.9, 0.99]", "lars", "orth_lars", "auto", "", "~", "1e-3"]),
    st.text(max_size=8).filter(lambda text: not text.startswith("-")),
)  # fmt: skip


@fuzzed(60)
@given(st.data())
def test_a_command_line_is_a_configuration_or_one_line(data):
    config = data.draw(st.sampled_from(CONFIGS))
    names = [f.name for f in fields(config)]
    chosen = data.draw(st.lists(st.sampled_from(names), max_size=3, unique=True))
    arguments = [part for name in chosen for part in (f"--{name}", data.draw(VALUES))]
    parsed = parse(config, arguments)
    if parsed is not None:
        for f in fields(config):
            assert has_type(getattr(parsed, f.name), f.type), (f.name, getattr(parsed, f.name))


@fuzzed(60)
@given(
    text=st.one_of(st.text(max_size=40), st.binary(max_size=40)), config=st.sampled_from(CONFIGS)
)
def test_a_file_of_options_is_a_configuration_or_one_line(tmp_path, text, config):
    path = tmp_path / "options.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    parse(config, ["--config", str(path)])


@fuzzed(15)
@given(
    lr=st.floats(0, 1e6), epochs=st.integers(1, 10**6), seed=st.integers(0, 2**32 - 1),
    out=st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=20),
    betas=st.none() | st.tuples(st.floats(0, 0.9999), st.floats(0, 0.9999)), compile=st.booleans(),
)  # fmt: skip
def test_a_configuration_survives_its_yaml(tmp_path, **options):
    config = PretrainConfig(optim="adam", warmup_epochs=0, **options)
    path = Path(tmp_path) / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert parse_config(PretrainConfig, ["--config", str(path)]) == config


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


PARAMETERS = st.lists(
    st.tuples(
        SHAPES, st.sampled_from(sorted(FILLS)), st.sampled_from([torch.float32, torch.float64]),
        st.booleans(),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


@fuzzed(150)
@given(name=st.sampled_from(sorted(OPTIMIZERS)), drawn=PARAMETERS, seed=st.integers(0, 100))
def test_a_step_keeps_finite_what_had_finite_gradients(name, drawn, seed):
    torch.manual_seed(seed)
    parameters = [make_parameter(*each) for each in drawn]
    optimizer = create_optimizer(name, parameters, lr=0.1)
    before = [p.detach().clone() for p in parameters]
    optimizer.step()
    optimizer.step()
    for parameter, old, (_, fill, _, _) in zip(parameters, before, drawn, strict=True):
        if fill == "none":
            assert torch.equal(parameter, old)
        elif fill not in ("nan", "inf"):
            assert parameter.isfinite().all(), fill
    again = create_optimizer(
        name, [p.detach().clone().requires_grad_() for p in parameters], lr=0.1
    )
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert again.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


@fuzzed(60)
@given(
    name=st.sampled_from(sorted(OPTIMIZERS)),
    lr=st.one_of(st.floats(), st.none(), st.text(max_size=3), st.integers(-3, 3)),
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
