import json
from pathlib import Path

import pytest
import yaml

from sslortho.paper import kept_runs
from sslortho.paper.kept_runs import keep_runs, restore_runs
from sslortho.paper.tuning import has_diverged
from sslortho.runs.status import write_status


@pytest.fixture
def out(tmp_path):
    out = tmp_path / "out"
    for name, top1 in (("runs/a-b-s0", 50.0), ("search/a-b-lr1", 40.0)):
        folder = out / name
        folder.mkdir(parents=True)
        records = [{"step": 5, "epoch": 0, "loss": 2.5}, {"step": 9, "epoch": 1, "top1": top1}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        summary = {
            "top1": top1,
            "directory": "/home/me",
            "plan": {"steps": "10", "run folder": "/home/me/out"},
            "config": {"lr": 1.0, "data_dir": "/home/me/D"},
        }
        (folder / "summary.json").write_text(json.dumps(summary))
    return out


def every(folder):
    return True


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_runs_come_back_as_they_were_but_for_where_they_ran(out, tmp_path):
    kept, other = tmp_path / "docs" / "kept.jsonl", tmp_path / "other"
    keep_runs(kept, out, every)
    assert restore_runs(kept, other) == 2
    for name in ("runs/a-b-s0", "search/a-b-lr1"):
        before = json.loads((out / name / "summary.json").read_text())
        after = json.loads((other / name / "summary.json").read_text())
        assert after == {
            "top1": before["top1"],
            "plan": {"steps": "10"},
            "config": {"lr": 1.0},
        }
    metrics = Path("runs", "a-b-s0", "metrics.jsonl")
    assert read(other / metrics) == read(out / metrics)
    assert read(other / "search" / "a-b-lr1" / "metrics.jsonl") == []
    assert restore_runs(kept, other) == 0
    text = kept.read_text()
    assert "/home/me" not in text
    keep_runs(kept, other, every)
    assert kept.read_text() == text


def test_a_run_that_is_there_is_left(out, tmp_path):
    kept = tmp_path / "kept.jsonl"
    keep_runs(kept, out, every)
    path = out / "runs" / "a-b-s0" / "summary.json"
    path.unlink()
    assert restore_runs(kept, out) == 0
    assert not path.exists()


def test_a_restoration_that_was_killed_is_made_again(out, tmp_path, monkeypatch):
    kept, other = tmp_path / "kept.jsonl", tmp_path / "other"
    keep_runs(kept, out, every)

    def kill(folder, config):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kept_runs, "_write_config", kill)
        with pytest.raises(KeyboardInterrupt):
            restore_runs(kept, other)
    assert restore_runs(kept, other) == 2
    assert sorted(path.name for path in (other / "runs").iterdir()) == ["a-b-s0"]
    assert (other / "runs" / "a-b-s0" / "summary.json").exists()


@pytest.mark.parametrize("summary", ["{}", "[]", '{"top1": 5', '{"config": 3}'])
def test_damaged_folders_end_nothing(out, tmp_path, summary):
    damaged = out / "runs" / "a-b-s1"
    damaged.mkdir()
    (damaged / "summary.json").write_text(summary)
    keep_runs(tmp_path / "kept.jsonl", out, every)
    assert "runs/a-b-s0" in {entry["name"] for entry in read(tmp_path / "kept.jsonl")}


@pytest.mark.parametrize(
    ("message", "error", "diverged"),
    [
        ("step 3: the gradients are not finite", "NonFiniteError", True),
        ("step 3: the gradients are not finite", None, True),  # of an older version
        ("the matrix is not positive-definite", "LinAlgError", False),
        ("the matrix is not positive-definite", None, False),
        ("weights that are not finite", "ValueError", False),
    ],
)
def test_divergence_is_told_from_other_failures(tmp_path, message, error, diverged):
    write_status(tmp_path, "failed", message, error)
    assert has_diverged(tmp_path) is diverged


def test_unfinished_and_failed_runs_are_not_kept_but_divergence_is(out, tmp_path):
    for name, message in (("x-lr1", "no space"), ("x-lr9", "gradients not finite at step 3")):
        (out / "search" / name).mkdir()
        write_status(out / "search" / name, "failed", message)
    (out / "search" / "y-lr1").mkdir()
    kept, other = tmp_path / "kept.jsonl", tmp_path / "other"
    keep_runs(kept, out, every)
    restore_runs(kept, other)
    assert {path.name for path in (other / "search").iterdir()} == {"a-b-lr1", "x-lr9"}
    assert (
        "finite" in json.loads((other / "search" / "x-lr9" / "status.json").read_text())["message"]
    )


def test_divergence_keeps_its_options(out, tmp_path):
    folder = out / "search" / "x-lr9"
    folder.mkdir()
    write_status(folder, "failed", "gradients not finite at step 3")
    (folder / "config.yaml").write_text("lr: 9.0\ndata_dir: /home/me/D\n")
    kept, other = tmp_path / "kept.jsonl", tmp_path / "other"
    keep_runs(kept, out, every)
    restore_runs(kept, other)
    config = other / "search" / "x-lr9" / "config.yaml"
    assert yaml.safe_load(config.read_text()) == {"lr": 9.0}


def test_runs_that_do_not_belong_are_told_and_not_kept(out, tmp_path):
    kept = tmp_path / "kept.jsonl"
    left = keep_runs(kept, out, lambda folder: folder.name != "a-b-s0")
    assert left == ["runs/a-b-s0"]
    assert [entry["name"] for entry in read(kept)] == ["search/a-b-lr1"]
    keep_runs(kept, out, every)
    assert keep_runs(kept, out, lambda folder: False) == []  # what the file has stays
    assert len(read(kept)) == 2


def test_a_damaged_file_is_told(out, tmp_path):
    kept = tmp_path / "kept.jsonl"
    keep_runs(kept, out, every)
    kept.write_text(kept.read_text() + "{}\n")
    with pytest.raises(ValueError, match="line 3 is no run"):
        restore_runs(kept, tmp_path / "other")


def test_a_name_does_not_lead_out_of_the_folder(tmp_path):
    kept = tmp_path / "kept.jsonl"
    entry = {"name": "../runs", "summary": {"config": {}}, "records": []}
    kept.write_text(json.dumps(entry) + "\n")
    assert restore_runs(kept, tmp_path / "other") == 0
    assert not (tmp_path / "runs").exists()
