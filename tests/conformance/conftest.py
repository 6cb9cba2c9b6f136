"""Options, the choice of adapters, expected failures of others, and the table."""

import json
from pathlib import Path

import pytest

from conformance.adapter import Adapter
from conformance.checks import LEFT_OUT
from conformance.choice import ADAPTERS, select_adapters
from conformance.table import Outcomes, write_table

RECORDED = Path(__file__).with_name("recorded.json")
"""Failures of others, by adapter: the version that was tested, and its failing tests."""


def pytest_addoption(parser):
    group = parser.getgroup("conformance")
    group.addoption(
        "--optimizer", action="append", metavar="NAME",
        help=f"only this adapter, results as they are: {', '.join(ADAPTERS)}, or FILE.py:NAME of yours",
    )  # fmt: skip
    group.addoption("--table", metavar="FILE", help="write a Markdown table of who passes what")
    group.addoption(
        "--record", action="store_true", help="write the failures of others to recorded.json"
    )


def selected(config) -> dict[str, Adapter]:
    """Adapters by name: those asked for, else all that are installed."""
    try:
        return select_adapters(config.getoption("--optimizer", default=None))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_generate_tests(metafunc):
    if "adapter" in metafunc.fixturenames:
        chosen = selected(metafunc.config)
        metafunc.parametrize("adapter", chosen.values(), ids=chosen)


def adapter_of(item) -> tuple[str, Adapter] | None:
    """Name and adapter of a test of this suite."""
    adapter = getattr(item, "callspec", None) and item.callspec.params.get("adapter")
    if not isinstance(adapter, Adapter):
        return None
    return next(part for part in item.callspec._idlist if part in selected(item.config)), adapter


def row_of(item, name: str) -> str:
    """Name of a test, the same for every adapter."""
    others = "-".join(part for part in item.callspec._idlist if part != name and part)
    test = item.function.__name__.removeprefix("test_").replace("_", " ")
    if test == "matrix":
        return others
    return f"{test}: {others}" if others else test


def pytest_collection_modifyitems(config, items):
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    raw = config.getoption("--optimizer", default=None) or config.getoption(
        "--record", default=False
    )
    for place, item in enumerate(items):
        found = adapter_of(item)
        if found is None:
            continue
        name, adapter = found
        row = row_of(item, name)
        item.user_properties += [("adapter", name), ("row", row), ("place", place)]
        if adapter.ours or raw:
            continue
        known = recorded.get(name, {})
        same = known.get("version") == adapter.version
        if row in known.get("failures", ()) or not same:
            # another version may have mended it, or broken more
            reason = "known" if same else f"recorded with {known.get('version', 'none')}"
            item.add_marker(pytest.mark.xfail(reason=reason, strict=same))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Count what an optimizer leaves out, or does not promise, as passed: nothing of it is to be mended."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and adapter_of(item) is not None:
        assert isinstance(report.longrepr, tuple)
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason == LEFT_OUT and item.callspec.params["adapter"].ours:
            report.outcome = "failed"
            report.longrepr = "one of ours leaves a layer to another optimizer"
            return report
        report.outcome, report.longrepr = "passed", None
        report.user_properties = [*report.user_properties, ("left out", reason)]
    return report


def pytest_configure(config):
    selected(config)  # so that a name that is none is told once, before any test
    # processes of xdist send their reports to the first one, which alone writes
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(config), "conformance-recorder")


class Recorder:
    """Outcomes of the tests of this suite, written at the end of the session."""

    def __init__(self, config):
        self.config = config
        self.outcomes: Outcomes = {}
        self.places: dict[str, int] = {}

    def pytest_runtest_logreport(self, report):
        facts = dict(report.user_properties)
        if "row" not in facts or (report.when != "call" and report.passed):
            return
        failed = report.failed or hasattr(report, "wasxfail")
        skipped = "left out" in facts
        outcome = "failed" if failed else "skipped" if skipped else "passed"
        why = facts.get("left out", "")
        if failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            why = crash.message.splitlines()[0] if crash else ""
        row = facts["row"]
        self.places[row] = min(facts["place"], self.places.get(row, facts["place"]))
        self.outcomes.setdefault(row, {})[facts["adapter"]] = outcome, why

    def pytest_sessionfinish(self):
        chosen = selected(self.config) if self.outcomes else {}
        if path := self.config.getoption("--table", default=None):
            # processes of xdist report in any order
            ordered = {
                row: self.outcomes[row] for row in sorted(self.places, key=self.places.__getitem__)
            }
            Path(path).write_text(write_table(ordered, chosen))
        if self.config.getoption("--record", default=False):
            RECORDED.write_text(json.dumps(self._failures(chosen), indent=2) + "\n")

    def _failures(self, chosen):
        """Version and failing rows, with the reasons, of each adapter of others."""
        return {
            name: {
                "version": adapter.version,
                "failures": {
                    row: cells[name][1]
                    for row, cells in sorted(self.outcomes.items())
                    if cells.get(name, ("",))[0] == "failed"
                },
            }
            for name, adapter in chosen.items()
            if not adapter.ours
        }
