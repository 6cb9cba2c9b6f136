"""Markdown table of who passes what."""

from collections.abc import Mapping

from conformance.adapter import Adapter
from conformance.checks import LEFT_OUT

Outcomes = dict[str, dict[str, tuple[str, str]]]
"""Row to adapter to ("passed", "failed" or "skipped", reason)."""

PASSED, FAILED, LEFT, NONE = "yes", "**no**", "left", "-"


def cell(outcome: tuple[str, str] | None) -> str:
    if outcome is None:
        return ""
    result, why = outcome
    if result == "skipped":
        return LEFT if why == LEFT_OUT else NONE
    return PASSED if result == "passed" else FAILED


def write_table(outcomes: Outcomes, adapters: Mapping[str, Adapter]) -> str:
    """Rows are tests, columns are optimizers with their versions; below them totals."""
    names = list(adapters)
    lines = [["", *(f"{a.title} {a.version}" for a in adapters.values())]]
    lines.append(["---"] * (len(names) + 1))
    lines.append(["who sorts the parameters", *(a.sorts for a in adapters.values())])
    for row, results in outcomes.items():
        lines.append([row, *(cell(results.get(name)) for name in names)])
    for word in (PASSED, FAILED, LEFT):
        counts = [sum(cell(r.get(name)) == word for r in outcomes.values()) for name in names]
        lines.append([f"number of {word.strip('*')}", *map(str, counts)])
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    notes = [f"- {a.title}: {a.note}\n" for a in adapters.values() if a.note]
    return table + ("\n" + "".join(notes) if notes else "")
