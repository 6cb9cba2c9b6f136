import numpy as np
import pytest
from helpers.report_runs import accuracies, table
from hypothesis import given
from hypothesis import strategies as st

from sslortho.paper.speed_up import epochs_to_reach, mean_curve


@pytest.mark.parametrize(
    ("curve", "target", "epoch"),
    [
        ({0: 10, 1: 60, 2: 55, 3: 70}, 60, 1),
        ({0: 10, 5: 60, 10: 70}, 61, 10),
        ({0: 10}, 11, None),
        ({}, 1, None),
    ],
)
def test_the_first_epoch_at_or_above(curve, target, epoch):
    assert epochs_to_reach(curve, target) == epoch


SPEED = "Epochs to the final accuracy of SGDM"


def test_epochs_that_orth_sgd_took_to_reach_sgd(runs):
    # SGD ends at 50 on average; the mean of the others is 47.5, then 60
    runs.finish("basic_cnn-sgd", 0, records=accuracies([10, 20, 30, 40, 48]))
    runs.finish("basic_cnn-sgd", 1, records=accuracies([10, 20, 60, 40, 52]))
    runs.finish("basic_cnn-orth_sgd", 0, records=accuracies([10, 50, 60, 61, 62]))
    runs.finish("basic_cnn-orth_sgd", 1, records=accuracies([10, 45, 60, 61, 62]))
    runs.finish("resnet20-sgd", 0, records=accuracies([10, 50]))
    runs.begin("resnet20-orth_sgd", 0, accuracies([10, 60]))  # under way: not yet to be judged
    lines = table(runs.report(), SPEED)
    assert lines[1:] == [["BasicCNN", "50.00", "Orthogonal-SGDM", "2", "50.0 %", "-", "4", "-"]]


def test_noise_of_one_seed_is_no_early_arrival(runs):
    """Each seed is above the target once by luck; their mean is not until the end."""
    for seed, curve in enumerate(
        ([10, 52, 40, 41, 50], [10, 38, 53, 42, 50], [10, 39, 40, 54, 50])
    ):
        runs.finish("basic_cnn-sgd", seed, records=accuracies(curve))
        runs.finish("basic_cnn-orth_sgd", seed, records=accuracies(curve))
    lines = table(runs.report(), SPEED)
    assert lines[1][3:5] == ["4", "100.0 %"]


def test_the_same_curves_take_as_long_as_the_baseline(runs):
    """SGD itself is at its final accuracy before the end, and is told by the same rule."""
    about = {"images_per_second": 1024.0, "steps": 40}
    for seed, end in enumerate((60, 62)):
        for column in ("sgd", "orth_sgd"):
            records = accuracies([10, 40, end, end + 3, end])
            runs.finish(f"basic_cnn-{column}", seed, records=records, **about)
    lines = table(runs.report(), SPEED)
    assert lines[1][3:] == ["2", "50.0 %", "20", "2", "20"]


def test_what_never_gets_there_is_said(runs):
    runs.finish("basic_cnn-sgd", 0, records=accuracies([10, 20, 30], "val_top1"))
    runs.finish("basic_cnn-orth_sgd", 0, records=accuracies([10, 28, 34], "val_top1"))
    runs.finish("basic_cnn-orth_sgd", 1, records=accuracies([10, 20, 25], "val_top1"))
    runs.finish("resnet20-sgd", 0, records=accuracies([10, 50]))
    runs.finish("resnet20-orth_sgd", 0, records=accuracies([10, 20]))
    lines = table(runs.report(), SPEED)
    assert lines[1] == ["BasicCNN", "30.00", "Orthogonal-SGDM", "not reached", "-", "-", "2", "-"]
    assert lines[2] == ["resnet20", "50.00", "Orthogonal-SGDM", "not reached", "-", "-", "1", "-"]


@given(st.lists(st.lists(st.floats(0, 100), min_size=4, max_size=4), min_size=1, max_size=4))
def test_the_mean_curve_is_numpys_and_a_baseline_reaches_itself(rows):
    mean = mean_curve([dict(enumerate(row)) for row in rows])
    assert list(mean.values()) == pytest.approx(np.mean(rows, axis=0))
    reached = epochs_to_reach(mean, mean[3])
    assert reached is not None
    assert reached <= 3


def test_a_mean_is_of_epochs_that_all_have():
    assert mean_curve([{0: 1.0, 2: 3.0, 4: 5.0}, {0: 3.0, 4: 7.0, 5: 9.0}]) == {0: 2.0, 4: 6.0}
    assert mean_curve([]) == {}


def test_no_claim_without_both(runs):
    runs.finish("basic_cnn-orth_sgd", 0, records=accuracies([10, 30, 40]))
    runs.diverge("basic_cnn-sgd", 0, accuracies([10, 5]))
    assert SPEED not in runs.report()
