"""Verdict on a pretraining: early, while it trains, and at its end."""

from collections.abc import Mapping
from typing import Any

from sslortho.evaluate import Verdict, diagnose
from sslortho.evaluate.verdict import NAMES_IN_RECORDS
from sslortho.runs.folder import RunFolder
from sslortho.runs.start_line import say
from sslortho.train.records import jsonable, read_metrics


class Watch:
    """Looks at each evaluation, and says once if the run has clearly failed already.

    Args:
        folder: of the run.
        config: options of the run.
        speaks: whether this rank says it; the others do nothing.
    """

    def __init__(self, folder: RunFolder, config: Mapping[str, Any], speaks: bool) -> None:
        self.folder = folder
        self.config = config
        self.speaks = speaks
        self.said = False

    def look(self, figures: Mapping[str, float]) -> None:
        """Look at the figures of an evaluation that is not recorded yet."""
        if not self.speaks or self.said:
            return
        records = read_metrics(self.folder.metrics, NAMES_IN_RECORDS)
        step = records[-1]["step"] if records else 0
        now = {"step": step, **{name: jsonable(value) for name, value in figures.items()}}
        verdict = diagnose([*records, now], {"config": self.config}, running=True)
        self._say(verdict, f"early {verdict.lines()[0]}, after step {step}")

    def tell_failure(self, error: Exception) -> None:
        """Say the verdict on a run that ended since its numbers were not finite."""
        if self.speaks:
            records = read_metrics(self.folder.metrics, NAMES_IN_RECORDS)
            reason = str(error).split(";")[0]
            verdict = diagnose(records, {"config": self.config}, failure=reason)
            self._say(verdict, verdict.lines()[0])

    def _say(self, verdict: Verdict, head: str) -> None:
        if verdict.accuses:
            self.said = True
            say("\n".join([head, *verdict.lines()[1:]]))


def judge(folder: RunFolder, summary: Mapping[str, Any]) -> Verdict:
    """Verdict on a run that has ended.

    Args:
        folder: of the run, with its records.
        summary: content of summary.json, without the verdict.
    """
    return diagnose(read_metrics(folder.metrics, NAMES_IN_RECORDS), summary)
