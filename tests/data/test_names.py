"""Names of files as lines of text, and compared whatever their Unicode form."""

import os

import pytest

from sslortho.data.names import compose, from_line, join_first, to_line

NAMES = [
    "cat.jpg",
    "été.jpg",
    "a b\\n.png",
    "two\nlines\r\tand a tab",
    os.fsdecode(b"\xff\xfe.png"),
    "\\xff.png",
    "\\",
    "\x1b[31m red",
    "line\u2028separator",
    "日本語",
    "\\u0041",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_one_line_of_plain_text_and_comes_back(name):
    line = to_line(name)
    assert from_line(line) == name
    assert len((line + "x").splitlines()) == 1
    assert "\t" not in line
    line.encode("utf-8")


def test_different_names_are_different_lines():
    assert len(set(map(to_line, NAMES))) == len(NAMES)


def test_usual_names_stay_as_they_are():
    for name in ("cat.jpg", "été", "日本語 1", "it's (2).png"):
        assert to_line(name) == name


def test_both_unicode_forms_are_one_name():
    assert compose("e\u0301te\u0301") == compose("\u00e9t\u00e9") == "\u00e9t\u00e9"
    assert compose("Cat") != compose("cat")
    odd = os.fsdecode(b"\xff")
    assert compose(odd) == odd


def test_the_first_names_stand_for_many():
    assert [join_first(list("abcde")[:n]) for n in (1, 3, 4)] == [
        "a",
        "a, b, c",
        "a, b, c, ...",
    ]
