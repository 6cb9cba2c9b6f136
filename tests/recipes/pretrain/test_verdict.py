"""The verdict on real runs, in all places where it stands."""

import json

import numpy as np
import pytest
import torch

import sslortho
from sslortho.train.backward import NonFiniteError
from verdict_runs.breaks import breaks_of
from verdict_runs.images import load_digits
from verdict_runs.run import Plan, TinyNet, options_of


@pytest.fixture(scope="module")
def digits():
    return load_digits()


def pretrain(digits, out, method, kind, **other):
    plan = Plan(method, "digits", kind, seed=1)
    options = {**options_of(plan, breaks_of(method)[kind]), **other}
    torch.manual_seed(1)
    train, test = digits
    return sslortho.pretrain(train, TinyNet(), test_data=test, out=out / "run", **options)


@pytest.mark.slow
def test_a_run_that_collapses_is_told_everywhere(digits, tmp_path, capsys):
    """BYOL whose gradient flows into its target: nothing holds its outputs apart."""
    run = pretrain(digits, tmp_path, "byol", "no stop-gradient")
    verdict = run.summary["verdict"]
    assert verdict["name"] == "collapsed to a point"
    finding = verdict["findings"][0]
    assert finding["value"] < finding["threshold"]
    assert json.loads((run.folder / "summary.json").read_text())["verdict"] == verdict
    report = (run.folder / "report.md").read_text()
    assert "collapsed to a point" in report.splitlines()[0]
    assert "](curves.png)" in report
    told = capsys.readouterr()
    assert "verdict: collapsed to a point" in told.out
    assert told.err.count("early verdict: collapsed to a point") <= 1


@pytest.mark.slow
def test_a_run_that_learns_is_healthy_with_labels_and_without(digits, tmp_path, capsys):
    run = pretrain(digits, tmp_path / "a", "barlow_twins", "healthy")
    assert run.summary["verdict"]["name"] == "healthy"
    (train, _), test = digits
    alone = pretrain(((train, np.full(len(train), -1)), test), tmp_path / "b", "barlow_twins", "healthy",
                     validation=0.1, test=False)  # fmt: skip
    assert "knn_top1" not in alone.summary
    assert alone.summary["verdict"]["name"] == "healthy"
    assert "early verdict" not in capsys.readouterr().err


@pytest.mark.slow
def test_repeated_images_are_told_before_the_first_step_and_once(digits, tmp_path, capsys):
    (train, labels), test = digits
    pretrain(((train[:1].repeat(len(train), 0), labels), test), tmp_path, "simclr", "healthy",
             epochs=2, evaluate_every=1, log_every=4)  # fmt: skip
    told = capsys.readouterr().err
    assert told.count("early verdict: data repeated or nearly constant, after step 0") == 1


@pytest.mark.slow
def test_a_run_that_diverges_is_told_before_it_ends(digits, tmp_path, capsys):
    with pytest.raises(NonFiniteError):
        pretrain(digits, tmp_path, "vicreg", "rate x 100")
    told = capsys.readouterr().err
    assert "verdict: diverging" in told
    assert "lower --lr" in told
