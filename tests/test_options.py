"""Options that know themselves."""

import dataclasses
from dataclasses import dataclass

import pytest

from sslortho.options import Facts, Options, RandomOptions, facts, help_texts, nearest, option


@dataclass(frozen=True, kw_only=True)
class First(Options):
    """First."""

    rate: float = option(0.1, group="optimisation", unit="per step")
    """Rate of
    the first."""
    folder: str | None = option(None, group="output", path=True, may_change=True)
    """Folder."""
    plain: int = 3
    """Without facts."""


@dataclass(frozen=True, kw_only=True)
class Second(RandomOptions, First):
    """Second."""

    rate: float = 0.5
    """Rate of the second."""
    folder: str | None = None
    needed: int = option(required=True, group="data")
    """Needed."""


def test_facts_are_those_of_the_class_that_states_them():
    known = facts(Second)
    assert known["rate"] == Facts(group="optimisation", unit="per step")
    assert known["folder"].path
    assert known["plain"] == Facts()
    assert known["needed"].group == "data"
    assert Second(needed=1).rate == 0.5
    with pytest.raises(TypeError, match="needed"):
        Second()


def test_help_is_the_nearest_docstring():
    assert help_texts(First)["rate"] == "Rate of the first."
    texts = help_texts(Second)
    assert (texts["rate"], texts["folder"]) == ("Rate of the second.", "Folder.")
    assert set(texts) == {f.name for f in dataclasses.fields(Second)}


def test_what_may_change_is_not_fixed():
    options = Second(needed=1, folder="x")
    assert options.fixed() == {"rate": 0.5, "plain": 3, "needed": 1, "seed": 0}
    assert options.values() == {**options.fixed(), "folder": "x"}


def test_paths_are_expanded_and_names_of_nobody_refused(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert First(folder="~/x").folder == "/home/me/x"
    assert First(folder="./~x").folder == "./~x"
    with pytest.raises(
        ValueError, match=r"folder='~nobody_is_called_so': there is no such user.*\./~"
    ):
        First(folder="~nobody_is_called_so")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_are_finite(value):
    with pytest.raises(ValueError, match=f"rate={value} must be a finite number"):
        First(rate=value)


@pytest.mark.parametrize(
    ("name", "hint"), [("resnet5", " (did you mean resnet50?)"), ("zzz", ""), (5, "")]
)
def test_the_nearest_name_is_a_hint(name, hint):
    assert nearest(name, ["resnet50", "vit"]) == hint
