import html
import re

import pytest

from sslortho.runs.markdown import code_lines, escape, table_lines


def test_columns_are_padded_and_aligned():
    assert table_lines([["", "a", "bcde"], ["n", "1", "22"]]) == [
        "|      |   n |",
        "|------|----:|",
        "| a    |   1 |",
        "| bcde |  22 |",
    ]
    aligned = table_lines([["a", "1"], ["long name", "x"]], right=[True, False])
    assert aligned[1] == "|----:|-----------|"
    assert aligned[2] == "|   1 | x         |"


def test_one_long_cell_does_not_stretch_the_others():
    lines = table_lines([["a", "b" * 20, "c"]], widest=5)
    assert [len(line) for line in lines] == [9, 9, 24, 9]


def test_code_may_hold_backticks():
    assert code_lines("a ``` b", "text") == ["````text", "a ``` b", "````"]


def test_only_a_line_can_begin_something():
    assert escape("- 1. #") == "- 1. #"
    assert escape("-", begins_line=True) == r"\-"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("knn_top1", "knn_top1"),
        ("Ü_ß", "Ü_ß"),
        ("_a_", r"\_a\_"),
        ("a*b|c", r"a\*b\|c"),
        ("&amp; R&D", r"\&amp; R&D"),
        ("a\n b", "a b"),
        ("# a #", r"\# a #"),
        ("2024. a", r"2024\. a"),
        ("1.5", "1.5"),
    ],
)
def test_only_what_means_something_is_escaped(text, escaped):
    assert escape(text, begins_line=True) == escaped


def test_a_parser_gives_back_what_was_escaped():
    markdown_it = pytest.importorskip("markdown_it")  # comes with import-linter
    parser = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"])
    hard = (
        "a|b a\\|b \\ _x_ __init__ a*b* ** *** [x](y) ![x](y) `c` ~~s~~ <b> <http://a.b> &amp; &#35; "
        "$x$ n01440764 C:\\_x Black&Decker _ a_ é_é"
    )
    starts = ["# a", "1. a", "1) a", "- a", "+ a", "---", "===", "> q", "--- ---"]
    for text in [*hard.split(), *starts, hard]:
        begun = escape(text, begins_line=True)
        shown = parser.render(f"| a |\n|---|\n| {escape(text)} |\n\n{begun}\n\n- {begun}")
        found = re.findall(r"<(?:td|p|li)>(.*)</(?:td|p|li)>", shown)
        assert [html.unescape(x) for x in found] == [text] * 3, text
