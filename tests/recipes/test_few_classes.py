"""Evaluations of up to five classes: top-5 accuracy says nothing there."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

import sslortho
from sslortho.evaluate.accuracy import leave_out_top5

QUICK = {"pictures": False, "threads": 1}


def digits_of(classes):
    """Images and labels of the first digits, to train and to test on."""
    images, labels = load_digits(return_X_y=True)
    chosen = np.flatnonzero(labels < classes)
    images = images[chosen].reshape(-1, 8, 8).astype(np.float32) / 16
    pairs = images, labels[chosen]
    return tuple(part[:120] for part in pairs), tuple(part[120:180] for part in pairs)


def test_five_classes_are_the_most_without_it():
    figures = {"top1": 50.0, "top5": 100.0, "val_top5": 100.0, "knn_top5": 100.0, "test_loss": 1.0}
    assert leave_out_top5(figures, 6) == figures
    assert leave_out_top5(figures, 5) == {"top1": 50.0, "test_loss": 1.0}


@pytest.mark.parametrize(("classes", "shown"), [(4, False), (6, True)])
def test_knn(tmp_path, capsys, classes, shown):
    train, test = digits_of(classes)
    summary = sslortho.knn_eval(
        "random", train, test_data=test, backbone="basic_cnn", k=3, out=tmp_path / "r", **QUICK
    ).summary
    assert ("knn_top5" in summary) is shown
    assert ("top-5" in capsys.readouterr().out) is shown
    assert ("top5" in (tmp_path / "r" / "report.md").read_text()) is shown


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["sgd", "lbfgs"])
@pytest.mark.parametrize(("classes", "shown"), [(4, False), (6, True)])
def test_linear_evaluation(tmp_path, capsys, protocol, classes, shown):
    train, test = digits_of(classes)
    more = {"epochs": 1} if protocol == "sgd" else {"l2": 0.01}
    summary = sslortho.linear_eval(
        "random", train, test_data=test, backbone="basic_cnn", protocol=protocol,
        out=tmp_path / "r", **more, **QUICK,
    ).summary  # fmt: skip
    assert 0 <= summary["top1"] <= 100
    assert ("top5" in summary) is shown
    assert ("top-5" in capsys.readouterr().out) is shown


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "shown"), [({}, False), ({"validation": 0.2}, False), ({"head_classes": 9}, True)]
)
def test_supervised_training(tmp_path, capsys, options, shown):
    train, test = digits_of(4)
    result = sslortho.supervised(
        train, "basic_cnn", test_data=test, epochs=1, out=tmp_path / "r", **options, **QUICK
    )
    names = [name for name in result.summary if name.endswith("top5")]
    assert bool(names) is shown
    assert ("top-5" in capsys.readouterr().out) is shown
