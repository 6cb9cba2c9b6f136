"""Verdicts on records whose figures are known."""

import itertools
import json
import math
import random

import pytest
import torch

from sslortho.evaluate import diagnose
from sslortho.evaluate.verdict import NAMES_IN_RECORDS
from sslortho.evaluate.verdict.findings import ADVICE, NAMES, UNDECIDED
from sslortho.evaluate.verdict.trivial_loss import trivial_loss
from sslortho.losses import SIGReg, draw_slices

METHODS = {
    "barlow_twins": {"projector": "64-64-64"},
    "simclr": {"projector": "64-32", "batch_size": 64},
    "vicreg": {"projector": "64-64-64", "variance": 25.0},
    "byol": {"projector": "64-32"},
    "simsiam": {"projector": "64-64-64"},
    "moco_v2": {"projector": "64-32", "queue": 255},
    "dino": {"projector": "64-32-256"},
    "lejepa": {"projector": "64-64-16", "lambda_param": 0.05, "batch_size": 64},
    "emp_ssl": {"projector": "64-64-32"},
}

FIRST = {
    "images": 64.0, "distinct_images": 100.0, "contrast": 1.0, "view_difference": 0.6,
    "rankme": 20.0, "feature_std": 0.4, "ranking": 65.0, "projection_std": 0.8, "weight_change": 0.0,
}  # fmt: skip
LAST = {**FIRST, "rankme": 22.0, "ranking": 85.0, "weight_change": 0.3}


def records(method="simclr", first=None, last=None, steps=200, loss=(4.0, 3.0), **terms):
    """Five evaluations, straight lines from first to last; twenty losses, which also begin and end flat."""
    ends = {**FIRST, **(first or {})}, {**LAST, **(last or {})}

    def between(low, high, share):
        return low + (high - low) * share

    found = []
    for i in range(20):
        share = min(1, max(0, (i - 2) / 12))
        line = {"step": round(steps * (i + 1) / 20), "loss": between(*loss, share)}
        found.append({**line, **{name: between(*pair, share) for name, pair in terms.items()}})
    for i in range(5):
        probe = {name: between(ends[0][name], ends[1][name], i / 4) for name in ends[0]}
        found.append(
            {
                "step": round(steps * i / 4),
                **{f"probe/{name}": value for name, value in probe.items()},
            }
        )
    return found


def told(given, method="simclr", summary=None, **how):
    config = {"method": method, **METHODS.get(method, {})}
    return diagnose(given, {"config": config, **(summary or {})}, **how)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("loss", [(4.0, 3.0), (-0.1, -0.8), (400.0, 20.0)])
def test_a_run_in_which_all_figures_improve_is_healthy(method, loss):
    verdict = told(records(loss=loss), method)
    assert verdict.name == "healthy"
    assert not verdict.accuses


@pytest.mark.parametrize(
    ("name", "given", "figure", "value", "threshold"),
    [
        ("collapsed to a point", {"last": {"projection_std": 0.01}}, "projections", 0.01, 0.15),
        ("collapsed to a point", {"last": {"feature_std": 0.0}}, "features", 0.0, 0.05),
        ("dimensional collapse", {"last": {"rankme": 5.0}}, "RankMe", 5.0, 0.6 * 20),
        ("rate too low", {"last": {"weight_change": 1e-4, "ranking": 65.1}}, "weights", 0.01, 1.0),
        ("rate too high", {"last": {"weight_change": 400.0}}, "weights a step", 200.0, 5.0),
        ("rate too high", {"last": {"weight_change": 40.0}, "steps": 10**6}, "weights", 40.0, 30.0),
        ("not better than the untrained network", {"last": {"ranking": 64.0}}, "own view", 64.0, 66.0),
        ("data repeated or nearly constant",
         {"first": {"distinct_images": 1.6}, "last": {"distinct_images": 1.6}}, "differ", 1.6, 50.0),
        ("data repeated or nearly constant",
         {"first": {"contrast": 0.01}, "last": {"contrast": 0.01}}, "contrast", 0.01, 0.05),
        ("views nearly the same",
         {"first": {"view_difference": 0.0}, "last": {"view_difference": 0.0}}, "two views", 0.0, 0.05),
        ("diverging", {"loss": (4.0, 40.0)}, "loss", 40.0, 2 * math.log(127)),
    ],
)  # fmt: skip
def test_each_fault_is_told_with_its_figure_and_threshold(name, given, figure, value, threshold):
    verdict = told(records(**given))
    assert verdict.name == name
    assert verdict.accuses
    finding = verdict.findings[0]
    assert figure in finding.figure
    assert finding.value == pytest.approx(value, rel=0.06)
    assert finding.threshold == pytest.approx(threshold, rel=1e-6)
    assert ADVICE[name]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_collapses_alike(method):
    assert told(records(last={"projection_std": 0.001}), method).name == "collapsed to a point"
    assert told(records(last={"rankme": 2.0}), method).name == "dimensional collapse"


def test_losses_of_outputs_that_know_nothing():
    """Closed forms: of equal outputs, the softmax is uniform and correlations are 0."""
    expected = {
        "simclr": math.log(127), "moco_v2": math.log(256), "dino": math.log(256),
        "barlow_twins": 64.0, "vicreg": 25.0, "byol": None, "simsiam": None, "emp_ssl": None,
        "lejepa": 0.05 * float(SIGReg()(torch.zeros(64, 5), draw_slices(0, 5, 3))),
    }  # fmt: skip
    for method, value in expected.items():
        assert trivial_loss({"method": method, **METHODS[method]}) == (
            None if value is None else pytest.approx(value, rel=1e-4)
        )
    assert trivial_loss({"method": "given"}) is None
    halves = {"method": "simclr", "batch_size": 64, "accumulation_steps": 2}
    assert trivial_loss(halves) == pytest.approx(math.log(63))


def test_a_queue_that_fills_is_no_divergence():
    """MoCo's loss begins near 0, with keys that are drawn, and rises to log(1 + keys)."""
    assert told(records(loss=(0.1, math.log(256))), "moco_v2").name == "healthy"


@pytest.mark.parametrize(
    ("entropies", "name"),
    [
        ({"teacher_entropy": (3.0, 4.1), "teacher_mean_entropy": (5.0, 5.0)}, "healthy"),
        ({"teacher_entropy": (3.0, 0.0), "teacher_mean_entropy": (5.0, 0.0)}, "collapsed to a point"),
        ({"teacher_entropy": (3.0, math.log(256)), "teacher_mean_entropy": (5.0, math.log(256))},
         "collapsed to a point"),
    ],
)  # fmt: skip
def test_a_teacher_without_centre_or_sharpening_collapses(entropies, name):
    assert told(records(**entropies), "dino").name == name


def test_outputs_of_barlow_twins_that_repeat_each_other():
    pairs = 64 * 63
    assert (
        told(records(redundancy=(0.0, 0.9 * pairs)), "barlow_twins").name == "dimensional collapse"
    )
    assert told(records(redundancy=(0.0, 0.1 * pairs)), "barlow_twins").name == "healthy"


def test_numbers_that_are_not_finite():
    given = records()
    last = max(given, key=lambda r: (r["step"], "loss" in r))
    assert told([r if r is not last else {**r, "loss": None} for r in given]).name == "diverging"
    gone = [r if r.get("step") != 200 else {**r, "probe/rankme": None} for r in given]
    assert told(gone).name == "diverging"
    assert told(given[:5], failure="step 9: the gradients are not finite").name == "diverging"


def test_the_order_of_records_does_not_matter():
    faults = (
        {},
        {"last": {"rankme": 5.0}},
        {"loss": (4.0, 40.0)},
        {"last": {"weight_change": 400.0}},
    )
    for fault in faults:
        given = records(**fault)
        whole = told(given)
        for seed in range(5):
            assert told(random.Random(seed).sample(given, len(given))) == whole


def test_a_cause_is_named_before_its_effects():
    verdict = told(records(last={"weight_change": 400.0, "projection_std": 0.0, "rankme": 1.0}))
    found = [finding.name for finding in verdict.findings]
    assert found == ["rate too high", "collapsed to a point", "dimensional collapse"]
    assert all(NAMES.index(a) < NAMES.index(b) for a, b in itertools.pairwise(found))


def test_too_little_is_undecided_and_says_what_is_missing():
    assert told([]).name == UNDECIDED
    short = told(records(steps=20, last={"ranking": 64.0}))
    assert short.name == UNDECIDED
    assert short.findings[0].figure == "optimizer steps"
    assert short.findings[0].value == 20
    assert told(records(steps=20, last={"projection_std": 0.01, "rankme": 2.0})).name == UNDECIDED
    lucky = {"untrained_knn_top1": 50.0, "knn_top1": 80.0, "inputs": {"test": {"count": 10_000}}}
    assert told(records(steps=20), summary=lucky).name == UNDECIDED
    blind = told([r for r in records() if "loss" in r])
    assert blind.name == UNDECIDED
    assert "evaluations" in blind.findings[0].figure
    between = told(records(last={"ranking": 66.5}))
    assert between.name == UNDECIDED
    assert between.findings[0].value == pytest.approx(1.5)


def text_of(verdict):
    """The lines of an undecided verdict about what is missing."""
    assert verdict.name == UNDECIDED
    (finding,) = verdict.findings
    return finding.describe()


@pytest.mark.parametrize(
    ("before", "now", "text"),
    [
        (65.0, 66.5, "1.5, below 2 points"),
        (96.0, 96.5, "0.5, below 1 points"),  # a quarter of the room, which is 4 points
    ],
)
def test_undecided_says_the_gain_that_is_needed(before, now, text):
    given = records(first={"ranking": before}, last={"ranking": now})
    assert text_of(told(given)) == f"gain in telling the own view from others: {text}"
    enough = records(first={"ranking": before}, last={"ranking": now + 2})
    assert told(enough).name == "healthy"


def test_undecided_says_what_else_is_missing():
    """No sentence is false: where the gain is large enough or not known, it is not what is missing."""
    gained = records(last={"ranking": 88.0})
    assert text_of(told(gained, running=True)) == "figures of the finished run: not known"
    begun = {"config": {"method": "simclr", "initial_weights": "x.pt"}}
    labels = "accuracy of kNN, before and now, and the number of its images: not known"
    assert text_of(diagnose(gained, begun)) == labels
    unranked = [{n: v for n, v in r.items() if n != "probe/ranking"} for r in gained]
    assert text_of(told(unranked)) == labels
    noisy = {"initial_knn_top1": 50.0, "knn_top1": 56.0, "inputs": {"test": {"count": 100}}}
    error = 100 * math.sqrt((0.5 * 0.5 + 0.56 * 0.44) / 100)
    said = f"difference in kNN top-1: 6, at most {2 * error:.3g} points"
    assert text_of(diagnose(gained, {**begun, **noisy})) == said
    late = [r for r in gained if "loss" in r or r["step"] > 0]
    assert text_of(told(late)) == "evaluations at the start and later: 1, below 2"


def test_a_clearly_lower_accuracy_decides_alone():
    summary = {"untrained_knn_top1": 80.0, "knn_top1": 60.0, "inputs": {"test": {"count": 1000}}}
    verdict = told(records(last={"ranking": 85.0}), summary=summary)
    assert verdict.name == "not better than the untrained network"


def test_labels_count_only_beyond_their_noise():
    """With n images the error of a difference of two halves is sqrt(2 / 4 n)."""
    dull = records(last={"ranking": 66.5})

    def with_accuracy(now, count):
        inputs = {"inputs": {"test": {"count": count}}}
        return told(dull, summary={"untrained_knn_top1": 50.0, "knn_top1": now, **inputs}).name

    assert with_accuracy(56.0, 100) == UNDECIDED  # error 7
    assert with_accuracy(56.0, 10_000) == "healthy"  # error 0.7
    assert with_accuracy(44.0, 10_000) == "not better than the untrained network"
    assert with_accuracy(50.0, 10_000) == UNDECIDED


def test_statistics_of_batch_norm_alone_are_no_success():
    """An untrained network without them has a lower accuracy; the ranking, taken with them, knows."""
    summary = {"untrained_knn_top1": 80.0, "knn_top1": 87.0, "inputs": {"test": {"count": 1000}}}
    verdict = told(records(last={"ranking": 65.0}), summary=summary)
    assert text_of(verdict) == "gain in telling the own view from others: 0, below 2 points"


def test_held_out_images_count_before_test_images():
    summary = {
        "untrained_knn_top1": 50.0, "knn_top1": 80.0, "untrained_val_knn_top1": 50.0,
        "val_knn_top1": 20.0, "inputs": {"test": {"count": 1000}, "held-out": {"count": 1000}},
    }  # fmt: skip
    assert told(records(), summary=summary).name == "not better than the untrained network"


def test_a_run_that_begins_with_given_weights_is_not_blamed_for_a_small_gain():
    verdict = diagnose(
        records(last={"ranking": 65.0}), {"config": {"method": "simclr", "initial_weights": "x.pt"}}
    )
    assert not verdict.accuses


@pytest.mark.parametrize(
    ("now", "name"),
    [(60.0, "worse than the initial weights"), (84.0, UNDECIDED), (90.0, "healthy")],
)
def test_a_run_that_begins_with_given_weights_is_compared_with_them(now, name):
    """Not with the untrained network; and not by the ranking, which gains in all of these."""
    summary = {
        "config": {"method": "simclr", "initial_weights": "x.pt"},
        "initial_knn_top1": 85.0, "untrained_knn_top1": 31.0, "knn_top1": now,
        "inputs": {"test": {"count": 10_000}},
    }  # fmt: skip
    verdict = diagnose(records(last={"ranking": 90.0}), summary)
    assert verdict.name == name
    if name == UNDECIDED:
        assert "difference in kNN top-1: 1, at most" in text_of(verdict)
    else:
        assert verdict.findings[0].figure == "kNN top-1 (initial weights 85 %)"


def test_a_run_with_given_weights_and_no_labels_is_told_what_labels_are_for():
    summary = {"config": {"method": "simclr", "initial_weights": "x.pt"}}
    verdict = diagnose(records(last={"ranking": 90.0}), summary)
    assert verdict.name == UNDECIDED
    assert "give labels" in verdict.advice[0]
    assert "advice" not in verdict.values()["findings"][0]


def test_while_a_run_trains_only_what_no_step_will_mend_is_said():
    def early(given):
        return told(given, running=True).name

    assert early(records()) == UNDECIDED
    assert early(records(last={"rankme": 1.0})) == UNDECIDED
    assert early(records(last={"ranking": 40.0})) == UNDECIDED
    assert early(records(last={"weight_change": 400.0})) == "rate too high"
    at_start = records(first={"distinct_images": 2.0})[20:21]
    assert early(at_start) == "data repeated or nearly constant"


def test_a_collapse_must_last_before_it_is_said_early():
    spreads = [0.8, 0.8, 0.02, 0.02, 0.02]
    lines = [r for r in records() if "probe/rankme" in r]
    lines = [{**r, "probe/projection_std": s} for r, s in zip(lines, spreads, strict=True)]
    assert told(lines[:3], running=True).name == UNDECIDED
    assert told(lines[:4], running=True).name == "collapsed to a point"
    assert told(lines[:3]).name == "collapsed to a point"  # if it ends there


def test_it_is_json_and_lines_for_people():
    verdict = told(records(last={"rankme": 5.0}))
    values = json.loads(json.dumps(verdict.values()))
    assert values["name"] == "dimensional collapse"
    assert values["findings"][0]["text"] == "RankMe of the features: 5, below 12"
    lines = verdict.lines()
    assert lines[0] == "verdict: dimensional collapse"
    assert all(line.startswith("  try: ") for line in lines[2:])


def test_all_that_is_read_is_named():
    """Records with these names alone give the same verdict."""
    given = records(last={"rankme": 5.0}, redundancy=(0.0, 10.0), other=(1.0, 2.0))
    few = [{n: v for n, v in r.items() if n in {"step", *NAMES_IN_RECORDS}} for r in given]
    assert few != given
    assert told(few) == told(given)


def test_every_verdict_has_advice():
    assert set(ADVICE) == set(NAMES)
    assert len(set(NAMES)) == len(NAMES)
