"""Verdict on a run from its records and summary."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sslortho.evaluate.verdict.evidence import GIVEN_WEIGHTS, Evidence, Record, collect
from sslortho.evaluate.verdict.findings import (
    CLEAR_EARLY,
    HEALTHY,
    NAMES,
    POINT,
    UNDECIDED,
    Finding,
    Verdict,
)
from sslortho.evaluate.verdict.rules import (
    FEWEST_STEPS,
    RULES,
    judge_point,
    needed_ranking,
    rankings,
)

COMPARE = (
    "give labels: only they tell whether features are better than those of the initial weights",
    "look at the neighbours of some images with both (sslortho embed, sslortho neighbours)",
)
"""Advice after a run that began with given weights, and whose images have no labels."""


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
    seen = [finding for rule in RULES if (finding := rule(evidence)) is not None]
    found = [f for f in seen if _is_clear(f, evidence)] if running else seen
    accusing = [finding for finding in found if finding.name != HEALTHY]
    chosen = accusing or found
    if not chosen:
        chosen = [_unknown("figures of the finished run") if seen else _find_missing(evidence)]
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


def _unknown(figure: str) -> Finding:
    return Finding(UNDECIDED, figure, math.nan, "not known", math.nan)


def _find_missing(e: Evidence) -> Finding:
    """The finding of a run about which no rule says anything: what is missing."""
    if e.steps < FEWEST_STEPS:
        return Finding(UNDECIDED, "optimizer steps", e.steps, "below", FEWEST_STEPS)
    taken = bool(e.before) + bool(e.now)
    if taken < 2:
        return Finding(UNDECIDED, "evaluations at the start and later", taken, "below", 2)
    known = rankings(e)
    if known is not None and known[1] < needed_ranking(known[0]):
        before, now = known
        figure = "gain in telling the own view from others"
        least = needed_ranking(before) - before
        return Finding(UNDECIDED, figure, now - before, "below", least, " points")
    if e.accuracy is not None and math.isfinite(e.accuracy.noise):
        figure, gain = "difference in kNN top-1", abs(e.accuracy.gain)
        return Finding(UNDECIDED, figure, gain, "at most", 2 * e.accuracy.noise, " points")
    unknown = _unknown("accuracy of kNN, before and now, and the number of its images")
    return replace(unknown, advice=COMPARE) if e.begun == GIVEN_WEIGHTS else unknown
