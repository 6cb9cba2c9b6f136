import pytest
from helpers.report_runs import accuracies, table

from sslortho.paper.speed_up import epochs_to_reach


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
    # SGD ends at 50 on average; 45 and 60 of the others are before and after it
    runs.finish("basic_cnn-sgd", 0, records=accuracies([10, 20, 30, 40, 48]))
    runs.finish("basic_cnn-sgd", 1, records=accuracies([10, 20, 70, 40, 52]))
    runs.finish("basic_cnn-orth_sgd", 0, records=accuracies([10, 50, 60, 61, 62]))
    runs.finish("basic_cnn-orth_sgd", 1, records=accuracies([10, 45, 60, 61, 62]))
    runs.finish("resnet20-sgd", 0, records=accuracies([10, 50]))
    runs.begin("resnet20-orth_sgd", 0, accuracies([10, 60]))  # under way: not yet to be judged
    lines = table(runs.report(), SPEED)
    assert lines[1:] == [["BasicCNN", "50.00", "Orthogonal-SGDM", "1.5", "37.5 %", "-", "4", "-"]]


def test_what_never_gets_there_is_said(runs):
    runs.finish("basic_cnn-sgd", 0, records=accuracies([10, 20, 30], "val_top1"))
    runs.finish("basic_cnn-orth_sgd", 0, records=accuracies([10, 30, 40], "val_top1"))
    runs.finish("basic_cnn-orth_sgd", 1, records=accuracies([10, 20, 29], "val_top1"))
    runs.finish("resnet20-sgd", 0, records=accuracies([10, 50]))
    runs.finish("resnet20-orth_sgd", 0, records=accuracies([10, 20]))
    lines = table(runs.report(), SPEED)
    assert lines[1] == ["BasicCNN", "30.00", "Orthogonal-SGDM", "1, not reached by 1 of 2", "50.0 %", "-",
                        "2", "-"]  # fmt: skip
    assert lines[2] == ["resnet20", "50.00", "Orthogonal-SGDM", "not reached", "-", "-", "1", "-"]


def test_no_claim_without_both(runs):
    runs.finish("basic_cnn-orth_sgd", 0, records=accuracies([10, 30, 40]))
    runs.diverge("basic_cnn-sgd", 0, accuracies([10, 5]))
    assert SPEED not in runs.report()
