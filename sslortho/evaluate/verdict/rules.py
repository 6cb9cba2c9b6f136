"""Rules: each looks at the evidence for one verdict, and returns a finding or None.

Thresholds were fitted on runs that were healthy or broken on purpose; docs/verdicts/README.md has the
runs, the figures, and how often each rule was right on runs that it was not fitted on.
"""

import itertools
import math
from collections.abc import Callable

from sslortho.evaluate.verdict.evidence import GIVEN_WEIGHTS, UNTRAINED, Evidence
from sslortho.evaluate.verdict.findings import (
    DATA,
    DIMENSIONAL,
    DIVERGING,
    HEALTHY,
    NOT_BETTER,
    POINT,
    TOO_HIGH,
    TOO_LOW,
    VIEWS,
    WORSE,
    Finding,
)
from sslortho.evaluate.verdict.trivial_loss import trivial_loss

FEWEST_STEPS = 64
"""Optimizer steps before which nothing is said about collapse, slowness or success. Healthy runs of ours
have moved well by then."""

LEAST_DISTINCT = 50.0
"""Percentage of images that differ from all others, below which the data count as repeated. All data sets
that people train on have 90 or more; one image repeated has 100 / n."""

LEAST_CONTRAST = 0.05
"""Deviation of the pixels within an image, relative to that of ImageNet, below which images show nothing:
about 3 of 256 grey levels."""

LEAST_VIEW_DIFFERENCE = 0.05
"""Distance of two views of an image relative to views of two images. Views of the methods' papers have 0.5
to 0.66."""

GROWN_LOSS = 2.0
"""Factor by which a loss that stays positive may end above its start, or above its trivial value."""

MOST_CHANGE_A_STEP = 0.05
"""Mean change of a weight a step, relative to its first length, between two evaluations. Healthy runs: up
to 0.007; rates that are 100 times too high: 0.5 and more."""

MOST_CHANGE = 30.0
"""Change of a weight relative to its first length in the whole run, whatever the number of steps."""

LEAST_CHANGE = 0.01
"""Change of a weight relative to its first length in a whole run, below which it has hardly learned."""

PROJECTIONS_STD, FEATURES_STD = 0.15, 0.05
"""Spreads below which projections, or features, count as one point. Healthy runs: projections 0.52 and more,
features 0.34; runs without the variance term, stop-gradient or centring: projections 0.02 to 0.1."""

LEAST_INFORMATION = 0.1
"""Nats that the distributions of DINO's teacher must tell of the image. Healthy runs: 0.9 and more; without
sharpening 0."""

LEAST_RANK = 0.6
"""Share of the untrained network's RankMe that features must keep. Healthy runs: 0.87 and more; without the
variance term, stop-gradient or predictor: 0.4 to 0.56."""

MOST_REDUNDANCY = 0.3
"""Mean squared correlation of different outputs of Barlow Twins. Healthy runs: 0.13; without the redundancy
term up to 0.73."""

LEAST_GAIN, NO_GAIN = 2.0, 1.0
"""Percentage points that the ranking of an image's own view must gain over the untrained network to count
as better; and up to which it counts as no gain. Between them nothing is said. Healthy runs: 2.7 to 29; at a
thousandth of the rate up to 0.9."""

FEWEST_LOSSES = 4
"""Records of the loss that are needed to tell its direction."""


def judge_data(e: Evidence) -> Finding | None:
    """Images that are copies of each other, or show nothing."""
    distinct, contrast = (e.images.get(name, math.nan) for name in ("distinct_images", "contrast"))
    if contrast < LEAST_CONTRAST:
        return Finding(DATA, "contrast within an image", contrast, "below", LEAST_CONTRAST)
    if distinct < LEAST_DISTINCT and e.images.get("images", 0) > 1:
        return Finding(DATA, "images that differ", distinct, "below", LEAST_DISTINCT, " %")
    return None


def judge_views(e: Evidence) -> Finding | None:
    """Augmentations that change nothing."""
    difference = e.images.get("view_difference", math.nan)
    if difference < LEAST_VIEW_DIFFERENCE:
        figure = "distance of two views, relative to two images"
        return Finding(VIEWS, figure, difference, "below", LEAST_VIEW_DIFFERENCE)
    return None


def judge_divergence(e: Evidence) -> Finding | None:
    """Numbers that are no longer finite, or a loss that has grown far beyond its trivial value."""
    if e.failure is not None:
        return Finding(DIVERGING, f"gradients ({e.failure})", math.nan, "not finite", math.nan)
    if e.losses and math.isnan(e.losses[-1]):
        return Finding(DIVERGING, "loss", math.nan, "not finite", math.nan)
    if e.now and math.isnan(e.now.get("rankme", 0.0)):
        return Finding(DIVERGING, "features", math.nan, "not finite", math.nan)
    start, end = e.median_loss(0.0, 0.1), e.median_loss(0.9, 1.0)
    trivial = trivial_loss(e.config)
    if len(e.losses) < FEWEST_LOSSES or trivial is None or not start > 0:
        return None  # negative cosines are bounded
    limit = GROWN_LOSS * max(start, trivial)
    return Finding(DIVERGING, "loss", end, "above", limit) if end > limit else None


def judge_high_rate(e: Evidence) -> Finding | None:
    """Weights that were thrown far from where they began."""
    places = [(0.0, 0.0), *((p["step"], p.get("weight_change", math.nan)) for p in e.probes)]
    pairs = itertools.pairwise(places)
    rates = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs if b[0] > a[0]]
    fastest = max((rate for rate in rates if not math.isnan(rate)), default=0.0)
    if fastest > MOST_CHANGE_A_STEP:
        return Finding(
            TOO_HIGH, "change of the weights a step", 100 * fastest, "above", 100 * MOST_CHANGE_A_STEP,
            " % of their length",
        )  # fmt: skip
    whole = e.now.get("weight_change", math.nan)
    if whole > MOST_CHANGE:
        return Finding(
            TOO_HIGH, "change of the weights", whole, "above", MOST_CHANGE, " times their length"
        )
    return None


def judge_point(e: Evidence) -> Finding | None:
    """Outputs that are the same for all images, after enough steps."""
    if e.steps < FEWEST_STEPS:
        return None
    for name, figure, least in (
        ("projection_std", "projections", PROJECTIONS_STD),
        ("feature_std", "features", FEATURES_STD),
    ):
        value = e.now.get(name, math.nan)
        if value < least:
            return Finding(POINT, f"spread of the {figure}", value, "below", least)
    return _judge_teacher(e)


def _judge_teacher(e: Evidence) -> Finding | None:
    """DINO's teacher, whose distributions are the same for all images (arXiv 2104.14294, section 5.3)."""
    told = [
        r["teacher_mean_entropy"] - r["teacher_entropy"]
        for r in e.training[-max(1, len(e.training) // 10) :]
        if r.get("teacher_entropy") is not None and r.get("teacher_mean_entropy") is not None
    ]
    if not told:
        return None
    value = sorted(told)[len(told) // 2]
    if value < LEAST_INFORMATION:
        figure = "what the teacher's outputs tell of the image"
        return Finding(POINT, figure, value, "below", LEAST_INFORMATION, " nats")
    return None


def judge_dimensions(e: Evidence) -> Finding | None:
    """Features that have lost dimensions, or outputs that repeat each other."""
    before, now = e.before.get("rankme", math.nan), e.now.get("rankme", math.nan)
    limit = LEAST_RANK * before
    if e.steps < FEWEST_STEPS:
        return None
    if now < limit:
        return Finding(DIMENSIONAL, "RankMe of the features", now, "below", limit)
    return _judge_redundancy(e)


def _judge_redundancy(e: Evidence) -> Finding | None:
    """Barlow Twins: mean squared correlation of different outputs, from the redundancy term."""
    outputs = trivial_loss(e.config) if e.method == "barlow_twins" else None
    terms = [r["redundancy"] for r in e.training if r.get("redundancy") is not None]
    if not outputs or outputs < 2 or not terms:
        return None
    last = sorted(terms[-max(1, len(terms) // 10) :])
    value = last[len(last) // 2] / (outputs * (outputs - 1))
    if value > MOST_REDUNDANCY:
        figure = "mean squared correlation of different outputs"
        return Finding(DIMENSIONAL, figure, value, "above", MOST_REDUNDANCY)
    return None


def judge_low_rate(e: Evidence) -> Finding | None:
    """Weights that are still where they began."""
    change = e.now.get("weight_change", math.nan)
    if e.steps < FEWEST_STEPS or not change < LEAST_CHANGE:
        return None
    figure = "change of the weights in the whole run"
    limit = 100 * LEAST_CHANGE
    return Finding(TOO_LOW, figure, 100 * change, "below", limit, " % of their length")


def judge_gain(e: Evidence) -> Finding | None:
    """Features that are no better than those of the network before its first step, or clearly better.

    A network that began with given weights is compared with those, by labels alone.

    By labels if the accuracies differ by more than twice their noise, else by the ranking of an image's own
    view among others. None if neither is known or clear. None too if the accuracy is clearly higher and the
    ranking clearly no better: an untrained network without statistics in its batch norm has a lower accuracy
    than with them. For the same reason nothing is said after a few steps. An accuracy that is clearly lower
    decides alone, whatever the ranking.
    """
    if e.steps < FEWEST_STEPS:
        return None
    ranking, accuracy = _compare_rankings(e), _compare_accuracies(e)
    if accuracy is None:
        return ranking
    if accuracy.name == HEALTHY and ranking is not None and ranking.name == NOT_BETTER:
        return None
    return accuracy


def _compare_accuracies(e: Evidence) -> Finding | None:
    """By labels; None where there are none, or where noise could make the difference."""
    accuracy = e.accuracy
    if accuracy is None or not abs(accuracy.gain) > 2 * accuracy.noise:
        return None
    better = accuracy.gain > 0
    limit = accuracy.before + math.copysign(2 * accuracy.noise, accuracy.gain)
    figure = f"kNN top-1 ({e.begun} {accuracy.before:.4g} %)"
    if better:
        return Finding(HEALTHY, figure, accuracy.now, "above", limit, " %")
    name = NOT_BETTER if e.begun == UNTRAINED else WORSE
    return Finding(name, figure, accuracy.now, "below", limit, " %")


def needed_ranking(before: float) -> float:
    """Ranking in percent that counts as better than that of the untrained network, `before`."""
    return before + min(LEAST_GAIN, (100 - before) / 4)


def rankings(e: Evidence) -> tuple[float, float] | None:
    """Ranking of the own view among others, in percent, before the training and now.

    None if one is not known. None too if the run began with given weights. It gains there even where features
    become worse, for instance those of a network that was trained with labels.
    """
    before, now = e.before.get("ranking", math.nan), e.now.get("ranking", math.nan)
    return None if math.isnan(now - before) or e.begun == GIVEN_WEIGHTS else (before, now)


def _compare_rankings(e: Evidence) -> Finding | None:
    """By the ranking of the own view among others; None if it is not known or not clear."""
    known = rankings(e)
    if known is None:
        return None
    before, now = known
    needed, none = needed_ranking(before), before + min(NO_GAIN, (100 - before) / 16)
    figure = f"own view told from others (untrained {before:.4g} %)"
    if now >= needed:
        return Finding(HEALTHY, figure, now, "at least", needed, " %")
    if now <= none:
        return Finding(NOT_BETTER, figure, now, "at most", none, " %")
    return None


RULES: tuple[Callable[[Evidence], Finding | None], ...] = (
    judge_data,
    judge_views,
    judge_divergence,
    judge_high_rate,
    judge_point,
    judge_dimensions,
    judge_low_rate,
    judge_gain,
)
"""All rules, in the order of the verdicts' names."""
