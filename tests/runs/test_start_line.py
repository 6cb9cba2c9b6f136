"""The lines before the first step, and durations in words."""

import pytest

from sslortho.runs.start_line import Plan, describe_pace, describe_seconds, say


def test_texts_are_aligned_and_empty_rows_left_out():
    plan = Plan({"images": "40", "run folder": "runs/x", "views": ""}, ("mind the gap",))
    assert plan.lines() == ["images      40", "run folder  runs/x", "note: mind the gap"]
    assert Plan({}).lines() == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (40, "40 s"), (60, "1 min"), (125, "2 min 5 s"), (3600, "1 h"),
     (3 * 3600 + 1259, "3 h 20 min"), (90_000, "1 d 1 h"), (3600 + 59, "1 h")],
)  # fmt: skip
def test_a_duration_has_its_two_largest_units(seconds, words):
    assert describe_seconds(seconds) == words


def test_the_estimate_is_steps_times_seconds(capsys):
    say(describe_pace(0.5, 1200))
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == (
        "0.5 s a step: about 10 min for the 1,200 steps that are left, evaluations not counted\n"
    )
    assert "for the 1 step that is left" in describe_pace(0.5, 1)
