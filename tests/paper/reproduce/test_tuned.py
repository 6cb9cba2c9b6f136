"""Experiments whose rates are tuned first."""

import json
import math
import shlex
import shutil
from pathlib import Path

import pytest
from helpers.report_runs import section, table
from helpers.script_runs import call_command

from sslortho.paper import experiments
from sslortho.paper.compass import MOST_EXTRA
from sslortho.runs.several import job_runner, jobs

FILE = """
title: Small
command: pretrain
data: digits
options: {backbone: basic_cnn, projector: 8-8, validation: 0.2, trackers: none, epochs: 4, batch_size: 32}
seeds: 2
rows:
  cnn: {label: CNN}
columns:
  lars: {label: LARS, optim: lars}
  muon: {label: Muon, optim: muon, adamw_lr: 0.001}
  adamw: {label: AdamW, optim: adamw, betas: [0.5, 0.99]}
search:
  trials: 6
  objective: val_knn_top1
  seed: 100
  options: {test: false}
  start:
    lars: {lr: 1, momentum: 0.9}
    muon: {lr: 0.1, momentum: 0.95}
    adamw: {lr: 0.001, beta1: 0.9}
reach: {baseline: lars, quantity: val_knn_top1}
tables:
  - {title: "kNN", figure: knn_top1}
"""

BEST = {"lars": 3.0, "muon": 0.05, "adamw": 0.02}

FAKE = """
import json, math, sys
from pathlib import Path
def parse(text):
    try:
        return json.loads(text)
    except ValueError:
        return text
given = {a[2:]: parse(v) for a, v in zip(sys.argv[2::2], sys.argv[3::2])}
out = Path(given["out"])
out.mkdir(parents=True, exist_ok=True)
(out / "config.yaml").write_text(json.dumps(given))
best = BEST[given["optim"]]
if given["lr"] > 20 * best:
    status = {"state": "failed", "message": "gradients of 10 steps in a row were not finite"}
    (out / "status.json").write_text(json.dumps(status))
    sys.exit(1)
accuracy = 50 - 10 * abs(math.log10(given["lr"] / best)) + given["seed"] % 10
figures = {"val_knn_top1": accuracy, "knn_top1": accuracy - 1, "loss": 3.0}
records = [{"step": i, "epoch": i, "val_knn_top1": accuracy * i / 4} for i in range(5)]
(out / "metrics.jsonl").write_text("".join(json.dumps(r) + chr(10) for r in records))
about = {"images_per_second": 100.0, "steps": 40, "config": given}
(out / "summary.json").write_text(json.dumps({**figures, **about}))
"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    """`reproduce small`, its runs a program with a best rate for each optimizer."""
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "small.yaml").write_text(FILE)
    (tmp_path / "fake.py").write_text(FAKE.replace("BEST[", f"{BEST}["))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(experiments, "configs_folder", lambda: tmp_path)
    monkeypatch.setattr(jobs, "PROGRAM", (str(tmp_path / "fake.py"),))
    monkeypatch.setattr(job_runner, "POLL", 0.01)

    def call(*arguments):
        done = call_command("reproduce", "small", *arguments)
        return done.returncode, done.stdout, done.stderr

    return call


def configs(folder):
    return {
        path.parent.name: json.loads(path.read_text())
        for path in Path(folder).glob("*/config.yaml")
    }


def test_each_optimizer_is_tuned_and_then_run(call):
    code, out, error = call("--out", "o")
    assert (code, error) == (0, ""), out
    trials, runs = configs("o/search"), configs("o/runs")
    assert {t["seed"] for t in trials.values()} == {100}
    assert {r["seed"] for r in runs.values()} == {0, 1}
    for trial in trials.values():
        assert trial["test"] is False
    for name, best in BEST.items():
        found = [run["lr"] for run in runs.values() if run["optim"] == name]
        assert len(found) == 2
        assert abs(math.log10(found[0] / best)) <= 0.25
        assert "test" not in runs[f"cnn-{name}-s0"]
    assert {t["betas"][1] for t in trials.values() if t["optim"] == "adamw"} == {0.99}

    report = Path("o/report.md").read_text()
    rows = {row[1]: row for row in table(report, "Tuning")[1:]}
    assert set(rows) == {"LARS", "Muon", "AdamW"}
    for row in rows.values():
        assert row[4:6] == ["yes", "yes"]
        assert int(row[2]) == len([text for text in row[6].split("; ") if text])
    # AdamW starts a factor of 20 away, and still has worse rates on both sides
    assert int(rows["LARS"][2]) == int(rows["Muon"][2]) == 6
    knn = {row[0]: row[1:] for row in table(report, "kNN")}
    assert set(knn[""]) == {"LARS", "Muon", "AdamW"}
    lines = table(report, "Epochs to the final accuracy of LARS")
    assert [line[2] for line in lines[1:]] == ["Muon", "AdamW"]
    # 40 steps of 32 images at 100 a second
    assert lines[1][-1] == "13"


def test_a_best_momentum_at_the_edge_is_told_and_the_search_goes_on(call):
    """The finished runs of a search that goes on stay in the report."""
    # best at steps of one length, and the smaller the momentum the better
    text = Path("fake.py").read_text()
    steps = "given['lr'] / (10 - 10 * given['momentum'])"
    text = text.replace('given["lr"] / best', f"{steps} / best").replace(
        "figures =", "accuracy -= 9 * given['momentum']\nfigures =", 1
    )
    Path("fake.py").write_text(text)
    file = Path("paper/small.yaml")
    file.write_text(file.read_text().replace("trials: 6", "trials: 9"))
    assert call("--out", "o", "--only", "lars")[0] == 0
    found = configs("o/search").values()
    smallest = min(trial["momentum"] for trial in found)
    assert smallest == 0.2  # the next would be below 0
    row = table(Path("o/report.md").read_text(), "Tuning")
    assert row[1][4:6] == ["yes", "yes"]
    assert row[0][3:6] == ["chosen", "rate bracketed", "momentum bracketed"]
    before = table(Path("o/report.md").read_text(), "kNN")

    for path in Path("o/search").iterdir():
        if json.loads((path / "config.yaml").read_text())["momentum"] == smallest:
            shutil.rmtree(path)
    assert call("--out", "o", "--only", "lars", "--report")[0] == 0
    report = Path("o/report.md").read_text()
    assert table(report, "kNN") == before
    row = table(report, "Tuning")[1]
    assert row[3].startswith("searching; so far lr ")
    assert row[4:6] == ["yes", "no"]


def test_what_is_kept_is_not_run_again(call):
    assert call("--out", "o", "--kept", "kept.jsonl")[0] == 0
    count = len(configs("o/search")) + len(configs("o/runs"))
    lines = Path("kept.jsonl").read_text().splitlines()
    assert len(lines) == count
    code, out, error = call("--out", "p", "--kept", "kept.jsonl")
    assert (code, error) == (0, "")
    assert "started" not in out
    assert f"kept.jsonl: {count} finished runs taken up" in out
    before, after = (Path(f"{folder}/report.md").read_text() for folder in "op")
    assert section(before, "Tuning") == section(after, "Tuning")
    assert section(before, "kNN") == section(after, "kNN")


def test_a_trial_that_diverges_is_the_worst_and_is_told(call):
    text = Path("paper/small.yaml").read_text()
    Path("paper/small.yaml").write_text(text.replace("lr: 1,", "lr: 40,"))
    code, out, error = call("--out", "o", "--only", "lars")
    assert (code, error) == (0, ""), out
    rows = table(Path("o/report.md").read_text(), "Tuning")
    assert "126 (0.9): diverged" in rows[1][6]
    assert call("--out", "o", "--only", "lars")[0] == 0


def test_where_every_trial_diverges_no_rate_is_chosen(call):
    text = Path("paper/small.yaml").read_text()
    Path("paper/small.yaml").write_text(text.replace("lr: 1,", "lr: 1.0e+12,"))
    code, out, error = call("--out", "o", "--only", "lars,muon")
    assert code == 1, out
    assert "not run: cnn-lars, whose trials all diverged; give search a smaller lr" in error
    assert set(configs("o/runs")) == {"cnn-muon-s0", "cnn-muon-s1"}
    rows = {row[1]: row for row in table(Path("o/report.md").read_text(), "Tuning")}
    assert rows["LARS"][2:6] == [str(6 + MOST_EXTRA), "all diverged", "-", "-"]
    assert "**" not in rows["LARS"][6]
    assert "At most 6 more follow" in section(Path("o/report.md").read_text(), "Tuning")
    assert call("--out", "o", "--report")[0] == 0


def test_an_objective_that_no_trial_has_is_no_divergence(call):
    text = Path("paper/small.yaml").read_text()
    Path("paper/small.yaml").write_text(text.replace("objective: val_knn_", "objective: val_kn_"))
    code, _, error = call("--out", "o", "--only", "lars")
    assert code == 2
    assert "objective='val_kn_top1' is no figure of o/search/cnn-lars-lr1-momentum0.9" in error
    assert "did you mean val_knn_top1?" in error
    assert error.count("\n") == 1
    assert len(configs("o/search")) == 1


def test_a_figure_that_is_not_finite_is_divergence(call):
    fake = Path("fake.py").read_text()
    changed = fake.replace(
        "figures =", "accuracy = None if given['lr'] > 3 else accuracy\nfigures ="
    )
    changed = changed.replace("accuracy - 1", "1").replace("accuracy * i / 4", "i")
    Path("fake.py").write_text(changed)
    assert call("--out", "o", "--only", "lars")[0] == 0
    assert "3.16 (0.9): diverged" in table(Path("o/report.md").read_text(), "Tuning")[1][6]


def test_runs_at_a_point_that_the_search_has_left_stay_and_are_told(call):
    assert call("--out", "o", "--kept", "kept.jsonl")[0] == 0
    before = configs("o/runs")
    path = next(Path("o/search").glob("cnn-lars-*-momentum0.8/summary.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "val_knn_top1": 90.0}))
    shutil.rmtree("o/runs/cnn-muon-s0")
    code, out, error = call("--out", "o")
    assert code == 1, out
    assert "not run: cnn-lars, which has runs with lr 3.16, momentum 0.9, but" in error
    assert "remove o/runs/cnn-lars-s*" in error
    assert configs("o/runs") == before  # that of Muon was run again
    report = Path("o/report.md").read_text()
    row = table(report, "Tuning")[1]
    assert row[3].startswith("lr ")
    assert row[3].endswith("; **its runs have lr 3.16, momentum 0.9**")
    assert table(report, "kNN")[1][0] == "CNN"
    for path in Path("o/runs").glob("cnn-lars-s*"):
        shutil.rmtree(path)
    assert call("--out", "o")[0] == 0
    assert "its runs have" not in Path("o/report.md").read_text()


def leave_unfinished():
    """Remove the runs and the last trial of LARS, so that its search goes on."""
    for path in Path("o/runs").iterdir():
        shutil.rmtree(path)
    trials = sorted(Path("o/search").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    shutil.rmtree(trials[-1])


def test_a_search_does_not_mix_trials_of_different_options(call):
    assert call("--out", "o", "--only", "lars")[0] == 0
    leave_unfinished()
    count = len(configs("o/search"))
    code, _, error = call("--out", "o", "--only", "lars", "--epochs", "8")
    assert code == 2
    assert "holds a run with epochs=4, but epochs=8 is asked for" in error
    assert len(configs("o/search")) == count
    assert call("--out", "o", "--only", "lars")[0] == 0


def test_a_trial_that_diverged_with_other_options_is_refused_too(call):
    text = Path("paper/small.yaml").read_text()
    Path("paper/small.yaml").write_text(text.replace("lr: 1,", "lr: 70,"))  # the first of all
    assert call("--out", "o", "--only", "lars", "--kept", "kept.jsonl")[0] == 0
    assert "finite" in Path("o/search/cnn-lars-lr70-momentum0.9/status.json").read_text()
    leave_unfinished()
    for folder in ("o", "p"):
        code, _, error = call(
            "--out", folder, "--only", "lars", "--epochs", "8", "--kept", "kept.jsonl"
        )
        assert code == 2
        assert "lars-lr70-momentum0.9 holds a run with epochs=4, but epochs=8 is asked" in error


def test_what_other_options_have_left_in_the_folder_is_not_kept(call):
    assert call("--out", "o", "--only", "lars", "--epochs", "8")[0] == 0
    count = len(configs("o/search")) + len(configs("o/runs"))
    code, out, error = call("--out", "o", "--only", "muon", "--kept", "kept.jsonl")
    assert (code, error) == (0, "")
    names = [json.loads(line)["name"] for line in Path("kept.jsonl").read_text().splitlines()]
    assert {name.split("-")[1] for name in names} == {"muon"}
    assert "kept.jsonl: left out, of other options than are asked for: " in out
    assert out.count("cnn-lars") == count
    code, out, error = call(
        "--out", "o", "--only", "lars", "--epochs", "8", "--kept", "other.jsonl"
    )
    assert (code, error) == (0, "")
    assert len(Path("other.jsonl").read_text().splitlines()) == count


def test_another_precision_counts_only_where_it_is_asked_for(call):
    text = Path("paper/small.yaml").read_text()
    Path("paper/small.yaml").write_text(
        text.replace("{backbone", "{mixed_precision: bf16, backbone")
    )
    assert call("--out", "o", "--only", "lars")[0] == 0
    leave_unfinished()
    count = len(configs("o/search"))
    Path("paper/small.yaml").write_text(text.replace("{backbone", "{mixed_precision: no, backbone"))
    code, _, error = call("--out", "o", "--only", "lars")
    assert code == 2
    assert "mixed_precision='bf16', but mixed_precision='no' is asked for" in error

    Path("paper/small.yaml").write_text(
        text.replace("{backbone", "{mixed_precision: bf16, backbone")
    )
    code, out, error = call(
        "--out", "o", "--only", "lars", "--mixed_precision", "no", "--kept", "k"
    )
    assert (code, error) == (0, "")
    assert (
        "mixed_precision no for what starts now; finished runs and trials count whatever theirs: "
        f"bf16 ({count})"
    ) in out.splitlines()
    found = {name: c["mixed_precision"] for name, c in configs("o/search").items()}
    assert sorted(found.values()) == [*["bf16"] * count, "no"]
    assert {c["mixed_precision"] for c in configs("o/runs").values()} == {"no"}
    assert len(Path("k").read_text().splitlines()) == count + 3
    for _ in range(2):
        report = Path("o/report.md").read_text()
        assert f"- mixed_precision of the runs and trials: **bf16 ({count}), no (3)**" in report
        assert "mixed_precision: no instead of bf16" in report
        assert call("--out", "o", "--report")[0] == 0  # remembers that it was asked for


def test_one_precision_is_no_remark(call):
    for _ in range(2):
        code, out, _ = call("--out", "o", "--only", "lars", "--mixed_precision", "bf16")
        assert code == 0
        assert "whatever theirs" not in out
    assert "mixed_precision of the runs" not in Path("o/report.md").read_text()


def test_a_trial_that_fails_leaves_its_cell_alone(call, tmp_path):
    text = (tmp_path / "fake.py").read_text()
    broken = text.replace("best = ", "assert given['optim'] != 'muon'\nbest = ", 1)
    (tmp_path / "fake.py").write_text(broken)
    code, _, error = call("--out", "o")
    assert code == 1
    assert "failed: cnn-muon-lr0.1-momentum0.95" in error
    assert set(configs("o/runs")) == {f"cnn-{n}-s{s}" for n in ("lars", "adamw") for s in (0, 1)}
    (tmp_path / "fake.py").write_text(text)
    assert call("--out", "o")[0] == 0
    assert "cnn-muon-s0" in configs("o/runs")


def test_a_dry_run_prints_the_first_trials_and_writes_nothing(call, tmp_path):
    code, out, _ = call("--dry_run", "--out", "o")
    assert code == 0
    found = [shlex.split(line) for line in out.splitlines()]
    assert [words[words.index("--optim") + 1] for words in found] == ["lars", "muon", "adamw"]
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("trials: 6", "trials: 2", "trials=2 must be a whole number from 3"),
        ("seed: 100", "seed: 1", "seed=1 must be none of the runs' seeds"),
        ("{lr: 1, momentum: 0.9}", "{lr: 0}", "start, lars: lr=0 must be above 0"),
        ("momentum: 0.95}", "momentum: 1}", "momentum=1 must be above 0 and below 1"),
        ("    muon: {lr", "    muo: {lr", "'muo' is not a column or cell (did you mean muon?)"),
        ("    muon: {lr: 0.1, momentum: 0.95}\n", "", "start has neither muon nor cnn-muon"),
        ("lr: 0.001, beta1", "beta1", "lr is missing"),
        ("objective: val_knn_top1", "objectiv: x", "did you mean objective?"),
        ("baseline: lars", "baseline: lar", "'lar' is not a column"),
        ("optim: lars}", "optim: lars, epoch: 3}", "cnn-lars-lr1-momentum0.9: "),
    ],
)
def test_mistakes_in_the_file_are_one_line(call, tmp_path, old, new, message):
    text = (tmp_path / "paper" / "small.yaml").read_text()
    assert old in text
    (tmp_path / "paper" / "small.yaml").write_text(text.replace(old, new))
    code, _, error = call("--out", "o")
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "o").exists()
