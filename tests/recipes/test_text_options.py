"""Text is text: it arrives as typed, from flags, from files and from Python."""

import json
import shlex
from dataclasses import MISSING, fields
from pathlib import Path
from unittest import mock

import pytest
import yaml
from helpers.option_classes import OPTION_CLASSES
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sslortho.methods.options import METHOD_OPTIONS
from sslortho.options import to_arguments
from sslortho.recipes.command_line import create_options, parse_options
from sslortho.recipes.embed.options import EmbedOptions
from sslortho.recipes.option_values import is_text
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.supervised.options import SupervisedOptions
from sslortho.runs.config_file import to_yaml
from sslortho.runs.several.jobs import Job

NASTY = [
    "#3", "&best", "*x", "2024", "007", "1_000", "0x10", "no", "yes", "on", "null", "None", "true", "1e3",
    "[a]", "{a: b}", "a: b", "@x", "!x", "%x", "-x", "--x", "- a", "|", ">", "? x", "`x", "a #b", " x ", "'q'",
    '"q"', "a\\b", "\\", "é", "e\u0301", "日本", "a\nb", "2024-01-02", "1:30", ".inf", "=", "<<", "x~",
    "$HOME", "\u2028", "\ufeff", "\x85", "😀", "\t", "y: [", "a,b", "a=b",
]  # fmt: skip
"""Texts that some reader of YAML, of a shell or of a command line takes for something else."""


@pytest.mark.parametrize("text", NASTY)
def test_a_flag_takes_text_as_typed(text):
    for name in ("out", "weights_prefix"):
        found = parse_options(EmbedOptions if name == "weights_prefix" else PretrainOptions,
                              [f"--{name}={text}", *BACKBONE[name]])  # fmt: skip
        assert getattr(found, name) == text


BACKBONE = {"out": [], "weights_prefix": ["--backbone_from=x"]}


@pytest.mark.parametrize("text", [t for t in NASTY if not t.startswith("-")])
def test_so_it_does_as_a_word_of_its_own(text):
    assert parse_options(PretrainOptions, ["--out", text]).out == text


@pytest.mark.parametrize("text", NASTY)
def test_a_run_that_has_it_writes_a_file_that_gives_it_again(tmp_path, text):
    options = PretrainOptions.of(data="folder", data_dir=text, out=text, trackers=text)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(options), encoding="utf-8")
    assert parse_options(PretrainOptions, ["--config", str(path)]) == options
    assert yaml.safe_load(to_yaml(options))["data_dir"] == text


TYPED = ["2024", "007", "1_000", "0x10", "no", "yes", "on", "None", "true", "1e3", "3e5", "2024-01-02", "-x",
         "2024-13-45", "1:30", "x~", "a\\b", "é", "[a]", "{a: b}", "512", "1.0", ".5", "=", "<<"]  # fmt: skip
"""Texts that YAML has without quotes."""


@pytest.mark.parametrize("text", TYPED)
def test_a_file_takes_unquoted_text_as_typed(tmp_path, text):
    path = tmp_path / "options.yaml"
    path.write_text(f"out: {text}\n", encoding="utf-8")
    assert parse_options(PretrainOptions, ["--config", str(path)]).out == text
    assert parse_options(PretrainOptions, ["--config", f"out: {text}"]).out == text


def test_an_unquoted_null_of_a_file_is_none_and_a_quoted_one_is_text(tmp_path):
    for text, expected in [("null", None), ("~", None), ("Null", None), ("'null'", "null")]:
        assert parse_options(PretrainOptions, ["--config", f"out: {text}"]).out == expected
    assert parse_options(PretrainOptions, ["--subset", "null"]).subset is None
    assert parse_options(PretrainOptions, ["--polar", "null"]).polar is None


@pytest.mark.parametrize("text", ["#3", "&best", "&best "])
def test_text_that_yaml_would_leave_out_is_an_error(text, capsys):
    with pytest.raises(SystemExit):
        parse_options(PretrainOptions, ["--config", f"lr: 1\nout: {text}\n"])
    assert "quote text that begins with # or &" in capsys.readouterr().err


@pytest.mark.parametrize("comment", ["", "  # where it goes", " ## x", " #"])
def test_a_comment_behind_no_value_is_none(comment):
    assert parse_options(PretrainOptions, ["--config", f"lr: 1\nout:{comment}\n"]).out is None


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("mixed_precision: no", "mixed_precision", "no"),
        ("projector: 512", "projector", "512"),
        ("data: folder\ndata_dir: 2024", "data_dir", "2024"),
        ("out: 3e5", "out", "3e5"),
        ("trackers: none", "trackers", "none"),
        ("trackers: no", "trackers", "no"),
        ("compile: no", "compile", False),
        ("compile: 'yes'", "compile", True),
        ("subset: 0x10", "subset", 16),
        ("lr: 1e-2", "lr", 0.01),
        ("lr: 5", "lr", 5.0),
        ("lr: '0.5'", "lr", 0.5),
        ("optim: adam\nbetas: [0.5, 1e-1]", "betas", (0.5, 0.1)),
    ],
)
def test_a_file_and_flags_say_the_same(text, name, expected):
    found = parse_options(PretrainOptions, ["--config", f"# options\n{text}\nseed: 0"])
    flags = [f"--{line.replace(': ', '=', 1)}" for line in text.replace("'", "").split("\n")]
    assert getattr(found, name) == expected
    assert type(getattr(found, name)) is type(expected)
    assert found == parse_options(PretrainOptions, flags)


def test_whole_numbers_are_decimal():
    for text, expected in [("010", 10), ("1_000", 1000), ("+5", 5), ("0b11", 3)]:
        assert parse_options(PretrainOptions, ["--seed", text]).seed == expected


@pytest.mark.parametrize("text", ["1:30", "3.0", "1e3", "", "x", "true", "[1]", "٣", "null"])
def test_what_is_no_whole_number_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        parse_options(PretrainOptions, ["--seed", text])
    assert "seed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["#3", "", " ", "---", "1:30", "5 #3", "&a 5", "!!null x", "''", "nothing"]
)
def test_only_null_is_none_where_a_number_is_optional(text, capsys):
    with pytest.raises(SystemExit):
        parse_options(PretrainOptions, [f"--subset={text}"])
    assert f"subset={text.rstrip()} must be a whole number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[010, +020]", [10, 20]), ("[1_0, 0_20]", [10, 20]), ("[0x10, 00.5e2]", [16, 50]),
        ("[1e1, 2.0E+01]", [10, 20]), ("- 5\n- 010", [5, 10]), ("[]", []), ("null", None),
    ],
)  # fmt: skip
def test_numbers_in_a_list_are_decimal_too(text, expected, tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("milestones:\n  " + text.replace("\n", "\n  "), encoding="utf-8")
    for words in ([f"--milestones={text}"], ["--config", str(file)]):
        assert read_raw(SupervisedOptions, words)["milestones"] == expected


@pytest.mark.parametrize(
    "text", ["[1:30, 2]", "[null, 2]", "[[1], 2]", "[a: 1]", "[#3]", "[nan]", "5"]
)
def test_what_is_no_list_of_numbers_is_refused(text, capsys):
    for words in (["--milestones", text], ["--config", f"milestones: {text}"]):
        with pytest.raises(SystemExit):
            parse_options(SupervisedOptions, words)
        assert "error:" in capsys.readouterr().err


def test_text_is_never_read_by_jsonargparse(monkeypatch):
    monkeypatch.setattr("jsonargparse.ArgumentParser", None)
    for words in (["--mixed_precision=no", "--out=5"], ["--config", "mixed_precision: no\nout: 5"]):
        found = parse_options(PretrainOptions, words)
        assert (found.mixed_precision, found.out) == ("no", "5")
    with pytest.raises(SystemExit):
        parse_options(PretrainOptions, ["--seed=5"])


def test_an_empty_path_is_no_path(capsys):
    for name in ("out", "data_dir"):
        with pytest.raises(SystemExit):
            parse_options(PretrainOptions, [f"--{name}=", "--data", "folder"])
        assert f"{name}='' must be a path; leave it out" in capsys.readouterr().err
    assert parse_options(PretrainOptions, ["--trackers", ""]).trackers == ""


def test_text_that_begins_with_a_dash_is_told_how_to_be_given(capsys):
    with pytest.raises(SystemExit):
        parse_options(PretrainOptions, ["--out", "-x"])
    assert "--out=-text" in capsys.readouterr().err


ALL = [*OPTION_CLASSES, *map(PretrainOptions.for_method, METHOD_OPTIONS)]


@pytest.mark.parametrize("cls", ALL)
def test_none_is_the_default_of_every_text_option_that_takes_none(cls):
    """`to_arguments` leaves them out."""
    taking = [f for f in fields(cls) if is_text(f.type) and f.type is not str]
    assert all(f.default is None for f in taking)


@pytest.mark.parametrize("cls", ALL)
def test_a_leading_tilde_is_expanded_once_in_every_path(cls, monkeypatch):
    monkeypatch.setenv("HOME", "/home/~me")
    given = {"write_beton": {"data_dir": "~/d"}}.get(cls.command, {})
    suffix = {"write_beton": ".beton", "show_views": ".png", "bench_loading": ".json"}
    end = suffix.get(cls.command, ".json" if "Loading" in cls.__name__ else "")
    required = {f.name: "~/d" for f in fields(cls) if f.default is MISSING and f.name != "out"}
    if "format" in required:
        required["format"] = "hub"
    if cls is EmbedOptions:
        return  # writes nothing
    for out in (f"~/x{end}", Path(f"~/x{end}")):
        made = create_options(cls, {**required, **given, "out": out})
        assert str(made.out) == f"/home/~me/x{end}"
        typed = [f"--{n}={v}" for n, v in {**required, **given, "out": out}.items()]
        assert parse_options(cls, typed) == made


def test_path_objects_are_paths_also_where_the_class_is_called(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert PretrainOptions.of(out=Path("~/x")).out == "/home/me/x"


@pytest.mark.slow
@settings(max_examples=100, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.too_slow])  # fmt: skip
@given(cls=st.sampled_from(ALL), text=st.text(min_size=1, max_size=12), data=st.data())
@example(cls=PretrainOptions, text="null", data=None)
def test_any_text_comes_back_from_file_flags_and_shell(cls, text, data):
    """A text option of any class, in an object made without checks, so that any text is allowed."""
    name = "out" if data is None else data.draw(st.sampled_from(
        sorted(f.name for f in fields(cls) if is_text(f.type) and f.name != "method")))  # fmt: skip
    values = {f.name: None if f.default is MISSING else f.default for f in fields(cls)}
    values |= {f.name: "x" for f in fields(cls) if f.default is MISSING}
    values |= {"format": "hub"} if "format" in values else {}
    values[name] = text
    options = object.__new__(cls)
    for each, value in values.items():
        object.__setattr__(options, each, value)
    arguments = shlex.split(shlex.join(to_arguments({name: text}, cls)))
    for words in (arguments, ["--config", to_yaml(options)]):
        assert read_raw(cls, words)[name] == text


def read_raw(cls, words):
    """Values as they are read, before the class checks them."""
    found = {}
    with mock.patch(
        "sslortho.recipes.command_line._create", lambda _, values: found.update(values)
    ):
        parse_options(cls, words)
    return found


@pytest.mark.parametrize("text", NASTY)
def test_a_job_and_a_python_call_hand_it_on(tmp_path, text):
    job = Job(
        "a", "supervised", {"data": "folder", "data_dir": text, "subset": None}, tmp_path, tmp_path
    )
    words = shlex.split(job.describe_command())
    assert parse_options(SupervisedOptions, words[2:]).data_dir == text
    made = create_options(SupervisedOptions, {"data": "folder", "data_dir": text})
    assert made.data_dir == text
    again = to_arguments(
        {"data": "folder", "data_dir": text, "out": None, "subset": None}, type(made)
    )
    assert parse_options(SupervisedOptions, again) == made
    assert json.loads(json.dumps(made.values()))["data_dir"] == text
