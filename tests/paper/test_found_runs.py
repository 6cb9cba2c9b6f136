import fcntl

import pytest
from helpers.report_runs import experiment, ours, section

from sslortho.paper.grid import Plot
from sslortho.paper.run_records import read_records


def test_how_far_runs_under_way_are(runs):
    runs.begin("basic_cnn-sgd", 0, [{"step": 5, "epoch": 3, "loss": 1.0}])
    runs.begin("basic_cnn-sgd", 1, [{"step": 50, "epoch": 12, "loss": 1.0}], epochs=40)
    runs.begin("basic_cnn-orth_sgd", 0)
    with runs.running("basic_cnn-sgd", seeds=(0, 1)), runs.running("basic_cnn-orth_sgd"):
        text = runs.report()
    assert ours(text) == ["epoch 12 of 40", "epoch 0 of 100"]
    assert "0 of 12 runs finished, 3 under way, 0 failed." in text


def test_a_run_that_was_started_by_hand_is_under_way_while_it_holds_its_folder(runs):
    folder = runs.begin("basic_cnn-sgd", 0, [{"step": 5, "epoch": 3, "loss": 1.0}])
    runs.set_state("basic_cnn-sgd", 0, "running")
    with (folder / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert ours(runs.report())[0] == "epoch 3 of 100"
    assert ours(runs.report())[0] == "failed"  # it was killed


def test_a_run_has_failed_stopped_or_goes_on_as_its_status_says(runs):
    runs.begin("basic_cnn-sgd", 0, [{"step": 5, "epoch": 3, "loss": 1.0}])
    runs.set_state("basic_cnn-sgd", 0, "stopped")
    runs.log("basic_cnn-sgd", 0, "$ python\n")
    runs.begin("basic_cnn-orth_sgd", 0, [{"step": 5, "epoch": 4, "loss": 1.0}])
    runs.set_state("basic_cnn-orth_sgd", 0, "stopped")  # once; it has been resumed
    runs.begin("resnet20-sgd", 0, [{"step": 5, "epoch": 5, "loss": 1.0}])
    runs.set_state("resnet20-sgd", 0, "failed")
    lines = [f"line {i}" for i in range(9)]
    runs.log("resnet20-sgd", 0, "0 %\r1 %\r" + "\n\n".join([*lines, "```", "Error: no memory"]))
    runs.log("resnet20-orth_sgd", 0, "")
    with runs.running("basic_cnn-orth_sgd"):
        text = runs.report()
    assert ours(text) == ["stopped at epoch 3 of 100", "epoch 4 of 100"]
    assert ours(text, "resnet20") == ["failed", "failed"]
    assert "0 of 12 runs finished, 1 under way, 1 stopped, 2 failed." in text
    said = section(text, "Failed runs").splitlines()
    assert said[0] == "resnet20-sgd-s0, end of logs/resnet20-sgd-s0.log:"
    assert said[2:9] == ["````text", *lines[-3:], "```", "Error: no memory", "````"]


@pytest.mark.parametrize("state", [None, "failed", "running", "finished"])
def test_whatever_its_log_says_a_run_that_is_gone_without_a_summary_has_failed(runs, state):
    runs.begin("basic_cnn-sgd", 0)
    if state is not None:
        runs.set_state("basic_cnn-sgd", 0, state)
    runs.log("basic_cnn-sgd", 0, "stopped by SIGTERM at step 7; the same command resumes\n")
    assert ours(runs.report())[0] == "failed"


def test_a_finished_run_has_a_log_too(runs):
    runs.finish("basic_cnn-sgd", 0, 70.0)
    runs.log("basic_cnn-sgd", 0, "$ python\n")
    text = runs.report()
    assert ours(text)[0] == "70.00 (1)"
    assert "## Failed runs" not in text


def test_files_that_are_cut_or_odd_do_not_stop_the_report(runs):
    first = runs.begin("basic_cnn-sgd", 0)
    (first / "metrics.jsonl").write_bytes(
        b'{"step": 1, "epoch": 0, "top1": 10}\n{"step": 2, "ep\xff'
    )
    (first / "summary.json").write_text('{"top1": 12')
    second = runs.begin("basic_cnn-orth_sgd", 0)
    (second / "metrics.jsonl").write_text('[1]\n{"epoch": 1}\n{"step": "a", "epoch": 1}\nnull\n')
    (second / "summary.json").write_text('["no mapping"]')
    (runs.folder("resnet20-sgd", 0) / "summary.json").write_text('{"top1": 40.0}')
    (runs.folder("resnet20-orth_sgd", 0) / "metrics.jsonl").mkdir()
    of = experiment(plots=(Plot("figure2", "Figure 2", "accuracy", (), "epoch"),))
    with runs.running("basic_cnn-sgd", "basic_cnn-orth_sgd", "resnet20-orth_sgd"):
        text = runs.report(of)
    assert ours(text) == ["epoch 0 of 100", "epoch 0 of 100"]
    assert ours(text, "resnet20") == ["40.00 (1)", "epoch 0"]
    assert [dict(r) for r in read_records(first)] == [{"step": 1, "epoch": 0, "top1": 10}]
    assert read_records(second) == []


def test_a_cell_whose_name_begins_as_anothers_is_not_taken_for_it(runs):
    columns = {"sgd": "SGDM", "sgd-s1": "other"}
    runs.finish("basic_cnn-sgd", 1, 70.0)
    folder = runs.folder("basic_cnn-sgd-s1", 0)
    (folder / "summary.json").write_text('{"top1": 40.0}')
    assert ours(runs.report(experiment(columns=columns))) == ["70.00 (1)", "40.00 (1)"]
