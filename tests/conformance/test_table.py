"""The choice of adapters, and the table of results."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from conformance.checks import LEFT_OUT
from conformance.choice import load_adapter, select_adapters
from conformance.others import OTHERS
from conformance.ours import OURS
from conformance.table import write_table
from conformance.test_reports import (
    test_pytorch_180561_takes_convolutions as check_taken,
)

OWN = """
import torch
from conformance.adapter import Adapter, Option, plain

MINE = Adapter(
    title="mine", package="torch",
    options={"": Option(lambda model, lr: torch.optim.SGD(model.parameters(), lr), plain)},
)
OTHER = 3
"""


def test_adapter_in_a_file_of_its_own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    chosen = select_adapters([f"{file}:MINE", "orth_sgd"])
    assert [adapter.title for adapter in chosen.values()] == ["mine", OURS["orth_sgd"].title]
    assert chosen["orth_sgd"].ours
    with pytest.raises(ValueError, match="OTHER is not an Adapter"):
        load_adapter(f"{file}:OTHER")


@pytest.mark.parametrize("name", ["adam", "missing.py:MINE"])
def test_unknown_adapter(name):
    with pytest.raises(ValueError, match=f"--optimizer {name}"):
        load_adapter(name)


def test_table():
    outcomes = {
        "dense": {"torch": ("passed", ""), "timm": ("failed", "too long")},
        "depthwise": {"torch": ("skipped", LEFT_OUT), "timm": ("skipped", "promises a size alone")},
    }
    adapters = {name: OTHERS[name] for name in ("torch", "timm")}
    lines = write_table(outcomes, adapters).splitlines()
    assert OTHERS["torch"].version in lines[0]
    assert lines[2] == "| who sorts the parameters | you | itself |"
    assert lines[3:5] == ["| dense | yes | **no** |", "| depthwise | left | - |"]
    assert lines[5:8] == [
        "| number of yes | 1 | 0 |", "| number of no | 0 | 1 |", "| number of left | 1 | 0 |",
    ]  # fmt: skip


PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"


def test_documented_adapter(tmp_path, monkeypatch):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "my_package.py").write_text(
        "def MyMuon(hidden, others, lr):\n"
        "    from torch.optim import SGD\n"
        "    return SGD([{'params': hidden}, {'params': others}], lr=lr)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "mine.py"
    file.write_text(example)
    adapter = load_adapter(f"{file}:ADAPTER")
    with pytest.raises(AssertionError, match=LEFT_OUT):
        check_taken(adapter)


def read_page():
    """Cells of the page's large table: its head, and the other rows."""
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in PAGE.read_text().splitlines()]
    (head,) = (row for row in cells if len(row) > 2 and f"{OTHERS['timm'].title} " in " ".join(row))
    return head, [row for row in cells if len(row) == len(head) and row != head]


def test_documented_failures_are_those_recorded():
    head, rows = read_page()
    recorded = json.loads(Path(__file__).with_name("recorded.json").read_text())
    for name, known in recorded.items():
        column = head.index(f"{OTHERS[name].title} {known['version']}")
        assert {row[0] for row in rows if row[column] == "**no**"} == set(known["failures"])


def test_documented_columns_of_ours_have_no_failure_and_are_counted():
    head, rows = read_page()
    titles = [adapter.title for adapter in OURS.values()]
    columns = [i for i, cell in enumerate(head) if any(cell.startswith(t) for t in titles)]
    assert len(columns) == len(OURS) == 4
    for column in columns:
        counts = Counter(row[column] for row in rows)
        assert not counts["**no**"]
        assert not counts["left"]
        (told,) = (row[column] for row in rows if row[0] == "number of yes")
        assert int(told) == counts["yes"] > 40
