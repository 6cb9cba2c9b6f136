"""Curves of several runs: records, and the end that only summary.json has."""

import json
from pathlib import Path

import pytest
from helpers.script_runs import call_command
from PIL import Image

from sslortho.recipes.plot_runs import label_runs, main, read_curves


@pytest.fixture
def run(tmp_path):
    records = [{"step": 5, "loss": 2.0, "knn_top1": 40.0}, {"step": 10, "loss": 1.0}]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "metrics.jsonl").write_text(lines)
    return tmp_path


def test_figures_of_the_end_are_those_of_the_summary(run):
    summary = {"steps": 12, "loss": 1.0, "knn_top1": 45.5, "seed": 3, "config": {}}
    (run / "summary.json").write_text(json.dumps(summary))
    *_, last = read_curves(run)
    assert last == {"step": 12, "knn_top1": 45.5}


def test_what_was_recorded_at_the_end_is_not_repeated(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 12, "knn_top1": 45.0}) + "\n")
    (run / "summary.json").write_text(json.dumps({"steps": 12, "knn_top1": 45.0}))
    assert len(read_curves(run)) == 3


def test_an_unfinished_run_has_its_records(run):
    assert [record["step"] for record in read_curves(run)] == [5, 10]


def test_the_command(run, tmp_path):
    (run / "summary.json").write_text(json.dumps({"steps": 12, "knn_top1": 45.5}))
    done = call_command("plot_runs", run, "--out", tmp_path / "x.png")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "x.png") as drawn:
        assert drawn.size[0] > 300


def test_runs_of_one_name_are_told_apart(tmp_path, monkeypatch):
    """a/lr1 and b/lr1 have their paths, c/lr2 its name; a run that is given twice is one."""
    runs = [tmp_path / name for name in ("a/lr1", "b/lr1", "c/lr2")]
    for run in runs:
        run.mkdir(parents=True)
    monkeypatch.chdir(runs[2])
    again = tmp_path / "b" / ".." / "a" / "lr1"
    labels = label_runs([*runs[:2], again, Path()])
    assert labels == {str(runs[0]): again, str(runs[1]): runs[1], "lr2": Path()}


def test_every_run_is_drawn_in_a_folder_that_is_made(run, tmp_path, monkeypatch):
    other = tmp_path / "other" / run.name
    other.mkdir(parents=True)
    (other / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text())
    drawn = {}
    monkeypatch.setattr(
        "sslortho.runs.curves.draw_curves", lambda out, records, title: drawn.update(records)
    )
    out = tmp_path / "new" / "folder" / "x.png"
    assert main([str(run), str(other), "--out", str(out)], "plot_runs") == 0
    assert list(drawn) == [str(run), str(other)]
    assert out.parent.is_dir()
