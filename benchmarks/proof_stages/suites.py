"""Tests run by pytest: those that need a GPU, then those of the parts that compute."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import Any

from sslortho.data import available_cores

from .context import ROOT, Context, PartialError

MARKS = ("mark.gpu", "@on_gpu")
"""Signs of a file that has tests for a GPU."""

FOLDERS = ("tests/optim", "tests/augment", "tests/losses", "tests/methods", "tests/train")


def run_gpu_tests(context: Context) -> dict[str, Any]:
    """Run every test that is marked `gpu`. In a rehearsal they are all skipped."""
    tests = ROOT / "tests"
    files = [
        path
        for path in sorted(tests.rglob("test_*.py"))
        if any(mark in path.read_text(encoding="utf-8") for mark in MARKS)
    ]
    return _run_pytest(context, [str(path) for path in files], ["-m", "gpu", "-n", "0"])


def run_suite(context: Context) -> dict[str, Any]:
    """Run the tests of optimizers, views, losses, methods and the loop."""
    if context.small:
        return _run_pytest(context, ["tests/optim/test_imports.py"], ["-n", "0"])
    chosen = ["-m", "not gpu and not ranks", "-n", str(min(12, available_cores()))]
    return _run_pytest(context, FOLDERS, chosen)


def _run_pytest(context: Context, paths: Sequence[str], chosen: Sequence[str]) -> dict[str, Any]:
    """Counts and names of failures.

    Raises RuntimeError if nothing was collected; PartialError, with the counts, if a test failed, or if
    none passed: on a GPU tests that are all skipped prove nothing.
    """
    report = context.work / "tests.xml"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    command = [
        sys.executable, "-m", "pytest", "-q", *chosen, "-p", "no:cacheprovider",
        "-W", "default",  # another torch than CI's may warn of itself
        f"--junitxml={report}", *paths,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=context.environment(), check=False)
    if not report.exists():
        raise RuntimeError(f"pytest ended with exit code {done.returncode} and no report")
    figures = read_report(report.read_text(encoding="utf-8"))
    if not figures["tests"]:
        raise RuntimeError(f"pytest ended with exit code {done.returncode} and ran no test")
    if figures["failed"] or done.returncode:
        counts = f"{len(figures['failed'])} of {figures['tests']} tests failed"
        raise PartialError(f"{counts}, exit code {done.returncode} of pytest", figures)
    if not (figures["passed"] or context.small):
        raise PartialError(f"all {figures['tests']} tests were skipped", figures)
    return figures


def read_report(text: str) -> dict[str, Any]:
    """Counts and names of failures in a JUnit file: {"tests", "passed", "skipped", "failed": [...]}."""
    cases = list(ElementTree.fromstring(text).iter("testcase"))
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    passed = len(cases) - skipped - len(failed)
    return {"tests": len(cases), "passed": passed, "skipped": skipped, "failed": failed}
