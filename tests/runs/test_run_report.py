import math
import re

import pytest

from sslortho.evaluate import Picture, Table
from sslortho.runs.run_report import ReportFigure, write_report


def parts(text):
    """Heading to the lines below it, of a report."""
    headings = re.split(r"^(#+ .*)$", text, flags=re.MULTILINE)
    return {h: b.strip().splitlines() for h, b in zip(headings[1::2], headings[2::2], strict=True)}


def cells(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


@pytest.fixture
def report(tmp_path):
    write_report(
        tmp_path / "run" / "report.md",
        title="Linear evaluation of a_b",
        figures=[
            ReportFigure("top1", 97.7777777, "%", "of the test images"),
            ("knn_top1", 5, "%"),
            ("loss", 53.46396255, "", "at the last step"),
            ("images_per_second", 124.358, "images/s"),
            ("rankme", None),
            ("feature_std", math.nan),
            ("count", 1281167),
        ],
        settings={
            "lr": 0.0048,
            "epochs": 13,
            "nesterov": False,
            "subset": None,
            "data_dir": "D|_x",
        },
        notes=["The backbone is frozen.", "1. a * b"],
        pictures=[
            Picture(tmp_path / "run" / "map.png", "Features of <all> classes"),
            (tmp_path / "other folder" / "b.png", "Another"),
        ],
        tables=[
            Table("Most confused", ("true", "taken for", "share"), [("a|b", "_c", 0.085106)]),
            ("Nothing", ("a", "b"), []),
        ],
        command="python x.py --a '`'",
        versions={"torch": "2.6.0", "numpy": "2.0.1"},
        hardware="1 process(es), CPU",
    )
    return (tmp_path / "run" / "report.md").read_text()


@pytest.fixture(autouse=True)
def folder(tmp_path):
    (tmp_path / "run").mkdir()


def test_figures_have_their_units_and_what_is_no_number_a_dash(report):
    rows = [cells(line) for line in parts(report)["# Linear evaluation of a_b"]]
    assert rows[0] == ["figure", "value", "meaning"]
    assert rows[2:] == [
        ["top1", "97.78 %", "of the test images"],
        ["knn_top1", "5.00 %", ""],
        ["loss", "53.464", "at the last step"],
        ["images_per_second", "124.36 images/s", ""],
        ["rankme", "-", ""],
        ["feature_std", "-", ""],
        ["count", "1281167", ""],
    ]


def test_settings_are_exact_and_notes_are_plain_text(report):
    settings = dict(map(cells, parts(report)["## Settings"][2:]))
    assert settings == {
        "lr": "0.0048",
        "epochs": "13",
        "nesterov": "false",
        "subset": "-",
        "data_dir": r"D\|\_x",
    }
    assert parts(report)["## Protocol"] == ["- The backbone is frozen.", r"- 1\. a \* b"]


def test_pictures_are_linked_relative_to_the_report(report):
    assert [line for line in parts(report)["## Pictures"] if line] == [
        r"Features of \<all> classes",
        "![map](map.png)",
        "Another",
        "![b](../other%20folder/b.png)",
    ]


def test_tables_have_their_rows_even_none(report):
    assert cells(parts(report)["## Most confused"][2]) == [r"a\|b", r"\_c", "0.085106"]
    assert len(parts(report)["## Nothing"]) == 2


def test_columns_line_up_in_plain_text(report):
    for heading in ("# Linear evaluation of a_b", "## Settings", "## Most confused"):
        assert len({len(line) for line in parts(report)[heading]}) == 1
        assert all(line.startswith("|") for line in parts(report)[heading])


def test_command_and_machine_are_told(report):
    assert parts(report)["## Command"] == ["```bash", "python x.py --a '`'", "```"]
    assert parts(report)["## Machine"] == ["1 process(es), CPU", "", "torch 2.6.0, numpy 2.0.1"]


def test_empty_parts_are_left_out(tmp_path):
    write_report(tmp_path / "report.md", title="t", figures=[("top1", 1.0, "%")], settings={})
    assert list(parts((tmp_path / "report.md").read_text())) == ["# t"]


def test_a_report_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "report.md"
    path.write_text("old")
    with pytest.raises(TypeError):
        write_report(path, title="t", figures=[("top1",)], settings={})
    assert path.read_text() == "old"
    assert not list(tmp_path.glob(".*"))
