"""Verdict on a run from its records and summary."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sslortho.evaluate.verdict.evidence import Evidence, Record, collect
from sslortho.evaluate.verdict.findings import (
    CLEAR_EARLY,
    HEALTHY,
    NAMES,
    POINT,
    UNDECIDED,
    Finding,
    Verdict,
)
from sslortho.evaluate.verdict.rules import FEWEST_STEPS, LEAST_GAIN, RULES, judge_point


def diagnose(
    records: Sequence[Record],
    summary: Mapping[str, Any] | None = None,
    *,
    failure: str | None = None,
    running: bool = False,
) -> Verdict:
    """Verdict on a pretraining. A pure function of what the run has recorded; measures nothing.

    Args:
        records: of metrics.jsonl, in any order; see `sslortho.train.records.read_metrics`.
        summary: content of summary.json, or as much of it as is known: of "config" the method's options,
            of "inputs" the number of images, final figures.
        failure: message of an error by which training ended since numbers were not finite.
        running: the run is not finished; only findings are told that more steps will not mend.
    """
    evidence = collect(records, summary or {}, failure)
    found = [finding for rule in RULES if (finding := rule(evidence)) is not None]
    if running:
        found = [finding for finding in found if _is_clear(finding, evidence)]
    accusing = [finding for finding in found if finding.name != HEALTHY]
    chosen = accusing or found or [_say_what_is_missing(evidence)]
    chosen.sort(key=lambda finding: NAMES.index(finding.name))
    return Verdict(chosen[0].name, tuple(chosen))


def _is_clear(finding: Finding, e: Evidence) -> bool:
    """Whether a finding may be told while a run trains. A collapse must have lasted from one evaluation to
    the next: DINO's outputs are close to a point at first, and spread again."""
    if finding.name != POINT:
        return finding.name in CLEAR_EARLY
    if e.steps < FEWEST_STEPS or len(e.probes) < 3:
        return False
    before = judge_point(replace(e, probes=e.probes[:-1]))
    return before is not None and before.figure == finding.figure


def _say_what_is_missing(e: Evidence) -> Finding:
    """The finding of a run about which nothing is certain."""
    if e.steps < FEWEST_STEPS:
        return Finding(UNDECIDED, "optimizer steps", e.steps, "below", FEWEST_STEPS)
    if not e.before or not e.now:
        return Finding(UNDECIDED, "evaluations on the way", len(e.probes), "below", 2)
    before, now = e.before.get("ranking", math.nan), e.now.get("ranking", math.nan)
    figure = "gain in telling the own view from others"
    return Finding(UNDECIDED, figure, now - before, "below", LEAST_GAIN, " points")
