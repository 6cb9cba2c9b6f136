import fcntl

from helpers.report_runs import experiment, ours, section

from sslortho.paper.grid import Plot
from sslortho.paper.plots import read_records


def test_how_far_runs_under_way_are(runs):
    runs.begin("basic_cnn-sgd", 0, [{"step": 5, "epoch": 3, "loss": 1.0}])
    runs.begin("basic_cnn-sgd", 1, [{"step": 50, "epoch": 12, "loss": 1.0}], epochs=40)
    runs.begin("basic_cnn-orth_sgd", 0)
    text = runs.report()
    assert ours(text) == ["epoch 12 of 40", "epoch 0 of 100"]
    assert "0 of 12 runs finished, 3 under way, 0 failed." in text


def test_a_run_fails_stops_or_goes_on_as_its_log_says(runs):
    runs.begin("basic_cnn-sgd", 0, [{"step": 5, "epoch": 3, "loss": 1.0}])
    runs.log(
        "basic_cnn-sgd", 0, "$ python\nstopped by SIGTERM at step 7; the same command resumes\n"
    )
    runs.begin("basic_cnn-orth_sgd", 0, [{"step": 5, "epoch": 4, "loss": 1.0}])
    held = runs.log("basic_cnn-orth_sgd", 0, "$ python\n")
    runs.begin("resnet20-sgd", 0, [{"step": 5, "epoch": 5, "loss": 1.0}])
    lines = [f"line {i}" for i in range(9)]
    runs.log("resnet20-sgd", 0, "0 %\r1 %\r" + "\n\n".join([*lines, "```", "Error: no memory"]))
    runs.log("resnet20-orth_sgd", 0, "")
    with held.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        text = runs.report()
    assert ours(text) == ["stopped at epoch 3 of 100", "epoch 4 of 100"]
    assert ours(text, "resnet20") == ["failed", "failed"]
    assert "0 of 12 runs finished, 1 under way, 1 stopped, 2 failed." in text
    said = section(text, "Failed runs").splitlines()
    assert said[0] == "resnet20-sgd-s0, end of logs/resnet20-sgd-s0.log:"
    assert said[2:9] == ["````text", *lines[-3:], "```", "Error: no memory", "````"]


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
