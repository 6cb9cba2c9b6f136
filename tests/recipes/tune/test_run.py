"""The search for hyperparameters, as its users start it."""

import fcntl
import json
import math
import signal
import types

import numpy as np
import pytest
import yaml
from helpers.script_runs import call_command
from PIL import Image

from sslortho.recipes.command_line import create_options, parse_options
from sslortho.recipes.configs import configs_folder
from sslortho.recipes.supervised.options import SupervisedOptions
from sslortho.recipes.tune import run as tune
from sslortho.recipes.tune import trials
from sslortho.recipes.tune.options import TuneOptions
from sslortho.recipes.tune.search import Trial
from sslortho.runs.lock import hold_folder, release_folder
from sslortho.runs.several import job_runner, jobs

FAKE = """
import json, math, pathlib, sys
given = dict(zip((a[2:] for a in sys.argv[2::2]), sys.argv[3::2]))
out = pathlib.Path(given["out"])
lr, momentum = float(given["lr"]), float(given.get("momentum", 0))
if lr > FAIL_ABOVE or out.name in BROKEN:
    print("what came before")
    sys.exit("it broke")
diverged = lr > DIVERGE_ABOVE
value = 90 - 20 * (math.log10(lr) + 2) ** 2 - 10 * (momentum - 0.5) ** 2
out.mkdir(parents=True)
summary = {"diverged": diverged, "val_top1": None if diverged else value, "val_loss": -value,
           "given": given}
(out / "summary.json").write_text(json.dumps(summary))
"""


@pytest.fixture
def call(monkeypatch, tmp_path):
    """`sslortho tune` in this process, its trials those of FAKE; its exit code and what it printed."""

    monkeypatch.setattr(job_runner, "POLL", 0.01)
    monkeypatch.setattr(job_runner, "LOCK_WAIT", 0.0)

    def call(out, *arguments, fail_above=math.inf, diverge_above=math.inf, broken=()):
        fake = tmp_path / "fake.py"
        limits = {"FAIL_ABOVE": fail_above, "DIVERGE_ABOVE": diverge_above}
        text = FAKE.replace("BROKEN", repr([f"trial-{number:04}" for number in broken]))
        for name, value in limits.items():
            text = text.replace(name, f"float('{value}')")
        fake.write_text(text)
        with monkeypatch.context() as patch:
            patch.setattr(jobs, "PROGRAM", (str(fake),))
            return call_command("tune", "--out", str(out), *arguments)

    return call


@pytest.fixture
def search(call):
    """The same for one that succeeds: the summaries by trial."""

    def search(out, *arguments, **how):
        done = call(out, *arguments, **how)
        assert done.returncode == 0, done.stderr
        return summaries(out)

    return search


def summaries(out):
    found = sorted(out.glob("trials/*/summary.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in found}


@pytest.mark.slow
def test_a_search_comes_near_the_optimum_and_goes_on(call, search, tmp_path):
    out = tmp_path / "search"
    first = search(out, "--trials", "8")
    assert len(first) == 8
    told = call(out, "--trials", "30").stdout
    more = summaries(out)
    assert len(more) == 30
    assert {name: more[name] for name in first} == first
    # half a decade around 1e-2 is a third of the range: random trials have 5 of 15 there
    late = [math.log10(float(more[f"trial-{i:04}"]["given"]["lr"])) for i in range(15, 30)]
    assert sum(abs(lr + 2) < 0.5 for lr in late) >= 10
    best = max(summary["val_top1"] for summary in more.values())
    options = yaml.safe_load((out / "best.yaml").read_text())
    assert options["lr"] in [
        float(s["given"]["lr"]) for s in more.values() if s["val_top1"] == best
    ]
    assert f"val_top1 {best:.5g}" in told
    assert f"\n  sslortho supervised --config {out / 'best.yaml'} --out {out / 'best'}\n" in told
    assert (out / "search.png").stat().st_size > 1000
    report = (out / "report.md").read_text()
    assert report.index(f"{best:.5g}") < report.index("search.png")


def test_the_best_options_are_those_of_a_supervised_run_that_looks_at_the_test_images(
    search, tmp_path
):
    out = tmp_path / "search"
    search(out, "--trials", "2", "--backbone", "basic_cnn", "--decay_all", "true")
    config = parse_options(SupervisedOptions, ["--config", str(out / "best.yaml")])
    assert config.test
    assert config.validation == 0.1
    assert config.backbone == "basic_cnn"
    assert config.weight_decay_biases == config.weight_decay


def test_trials_never_look_at_test_images(search, tmp_path):
    for summary in search(tmp_path / "search", "--trials", "2").values():
        assert summary["given"]["test"] == "false"
        assert summary["given"]["validation"] == "0.1"


@pytest.mark.slow
def test_photographs_without_test_images_are_searched_and_trained_on(tmp_path):
    """Folders for classes, and nothing set aside: what tune and --test false need is held out."""
    numbers = np.random.default_rng(0)
    for i in range(40):
        place = tmp_path / "photos" / ("dark", "light")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = numbers.integers(0, 128, (16, 16, 3), dtype=np.uint8) + 127 * (i % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i:02}.png")
    data = ["--data", str(tmp_path / "photos"), "--labels", "folders", "--threads", "1"]
    small = [*data, "--backbone", "basic_cnn", "--epochs", "1", "--trackers", "none"]
    out = tmp_path / "search"
    searched = ["--trials", "1", "--search", "lr", "--validation", "0.25", "--out", str(out)]
    done = call_command("tune", *small, *searched)
    assert done.returncode == 0, done.stderr
    (trial,) = summaries(out).values()
    assert {role: found["count"] for role, found in trial["inputs"].items()} == {
        "training": 30, "held-out": 10,
    }  # fmt: skip
    assert trial["val_top1"] in range(0, 101, 10)
    assert trial["details"]["test_images"] == 0
    assert "there are no test images" in done.stdout
    again = call_command("supervised", "--config", str(out / "best.yaml"), "--out", str(out / "b"))
    assert again.returncode == 0, again.stderr
    assert "held out" in again.stdout
    needed = call_command("supervised", *small, "--out", str(tmp_path / "c"))
    assert "has no test images; add test/ or val/, or give test_data" in needed.stderr


@pytest.fixture
def begin(call, monkeypatch):
    """The job of a search that was killed at its first trial."""

    def begin(out, *arguments):
        drawn = []

        def cut(self, jobs, ended):
            drawn.append(next(iter(jobs)))
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(tune.JobRunner, "run", cut)
            patch.setattr(signal, "signal", lambda *given: None)  # tests want Ctrl-C to work
            assert call(out, *arguments).returncode == 130
        return drawn[0]

    return begin


def test_a_trial_that_was_cut_short_is_run_again_with_its_numbers(search, begin, tmp_path):
    out = tmp_path / "search"
    job = begin(out, "--trials", "3")
    found = search(out, "--trials", "3")
    assert len(found) == 3
    assert float(found[job.name]["given"]["lr"]) == job.options["lr"]


def test_a_trial_that_could_not_go_on_is_told_before_anything_starts(call, begin, tmp_path):
    out = tmp_path / "search"
    job = begin(out, "--trials", "3", "--threads", "1")
    (job.folder / "checkpoints" / "step-1").mkdir(parents=True)
    (job.folder / "config.yaml").write_text("threads: 1")
    done = call(out, "--trials", "3", "--threads", "2")
    assert done.returncode == 2
    assert "holds a run with threads=1, but threads=2 is asked for" in done.stderr
    assert not (out / "logs").exists()


def test_a_search_is_of_one_process_at_a_time(call, search, tmp_path):
    out = tmp_path / "search"
    out.mkdir()
    with (out / "study.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = call(out, "--trials", "1")
    assert done.returncode == 2
    assert f"out={str(out)!r}: another search is at work there" in done.stderr
    assert not (out / "study.log").exists()
    assert len(search(out, "--trials", "1")) == 1


@pytest.mark.slow
def test_a_trial_that_an_orphan_still_runs_is_waited_for(call, begin, tmp_path, monkeypatch):
    out = tmp_path / "search"
    job = begin(out, "--trials", "3")
    job.log.parent.mkdir(parents=True)
    orphan = job.log.open("ab")
    fcntl.flock(orphan, fcntl.LOCK_EX)
    asked = []

    def is_held(log):
        asked.append(log)
        if len(asked) == 40:  # the others are done by then: the orphan ends with its figure
            job.folder.mkdir(parents=True)
            summary = {"diverged": False, "val_top1": 95.0, "val_loss": 0.0, "given": {"lr": "0"}}
            (job.folder / "summary.json").write_text(json.dumps(summary))
            orphan.close()
        return not orphan.closed

    monkeypatch.setattr(trials, "is_held", is_held)
    output = call(out, "--trials", "3").stdout
    assert len(summaries(out)) == 3
    assert output.count(f"busy: {job.name}") == 1
    assert output.index("finished: trial-0002") < output.index("best of 3: trial 0, val_top1 95")
    assert "; 0 failed" in (out / "report.md").read_text()


@pytest.mark.parametrize("held", ["log", "folder"])
def test_a_busy_trial_is_offered_again_once_its_run_is_over(tmp_path, held):
    """A run started by hand holds its folder, and not the log."""
    options = create_options(TuneOptions, {"out": str(tmp_path), "trials": 1})
    trial = Trial(0, {"lr": 0.1})
    job = trials.plan(options, trial, tmp_path)
    search = types.SimpleNamespace(completed=0, open_trials=lambda: [trial])
    offered = trials.Trials(options, search, tmp_path)
    assert offered._next().name == job.name
    job.log.parent.mkdir(parents=True)
    with job.log.open("ab") as log:
        if held == "log":
            fcntl.flock(log, fcntl.LOCK_EX)
        else:
            hold_folder(job.folder)
        offered.end(job, "busy")
        assert offered._next() is None
        assert offered._next() is None
    release_folder(job.folder)
    assert offered._next().name == job.name


@pytest.mark.slow
def test_failed_and_diverged_trials_do_not_win(search, tmp_path):
    out = tmp_path / "search"
    found = search(out, "--trials", "12", "--seed", "1", fail_above=0.3, diverge_above=0.05)
    diverged = sum(summary["diverged"] for summary in found.values())
    assert len(found) == 12  # whatever has failed beside them
    assert 0 < diverged < 12
    failed = len(list(out.glob("logs/*.log"))) - 12
    assert failed > 0
    assert yaml.safe_load((out / "best.yaml").read_text())["lr"] <= 0.05
    report = (out / "report.md").read_text()
    assert f"12 trials are complete, {diverged} of them diverged; {failed} failed" in report


@pytest.mark.parametrize("arguments", [(), ("--objective", "val_loss")])
def test_where_all_diverged_there_is_no_best(call, tmp_path, arguments):
    out = tmp_path / "search"
    done = call(out, "--trials", "2", *arguments, diverge_above=0)
    assert done.returncode == 1
    assert "sslortho tune: all 2 trials diverged" in done.stderr
    assert not (out / "best.yaml").exists()
    assert "2 trials are complete, 2 of them diverged" in (out / "report.md").read_text()


def stopped_after(call, out, *arguments, **how):
    """Failures in a row that a search says it stopped at, and how many trials it began."""
    done = call(out, *arguments, **how)
    assert done.returncode == 1
    assert "  | what came before\n  | it broke" in done.stderr
    return int(done.stderr.removeprefix("sslortho tune: ").split()[0]), len(
        list(out.glob("logs/*.log"))
    )


@pytest.mark.slow
def test_a_search_stops_where_the_first_three_fail_and_counts_none_of_them(call, search, tmp_path):
    out = tmp_path / "search"
    assert stopped_after(call, out, "--trials", "9", fail_above=0) == (3, 3)
    assert stopped_after(call, out, "--trials", "9", fail_above=0) == (3, 6)
    assert len(search(out, "--trials", "2")) == 2  # once it is mended


@pytest.mark.slow
def test_later_it_stops_where_five_fail_in_a_row(call, tmp_path):
    out = tmp_path / "search"
    broken = [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert stopped_after(call, out, "--trials", "9", broken=broken) == (5, 11)


@pytest.mark.slow
def test_trials_at_a_time(search, tmp_path):
    assert len(search(tmp_path / "search", "--trials", "5", "--jobs", "2")) == 5


def test_momentum_is_the_first_beta_of_adam(search, tmp_path):
    found = search(
        tmp_path / "search", "--trials", "2", "--optim", "orth_adam", "--search", "momentum",
        "--betas", "[0.9,0.99]",
    )  # fmt: skip
    for summary in found.values():
        beta1, beta2 = json.loads(summary["given"]["betas"])
        assert 0 <= beta1 <= 0.99
        assert beta2 == 0.99
        assert "momentum" not in summary["given"]


@pytest.mark.slow
def test_what_changes_no_result_may_change(search, tmp_path):
    out = tmp_path / "search"
    search(out, "--trials", "1", "--threads", "1", "--subset", "300")
    more = ("--threads", "2", "--workers", "0", "--log_every", "3", "--trackers", "none")
    assert len(search(out, "--trials", "2", "--subset", "300", *more)) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--lr_range", "[0.01,0.1]"), "other ranges: lr"),
        (("--search", "lr"), "other ranges: momentum"),
        (("--backbone", "resnet32"), "other settings: backbone ('resnet20' there"),
        (("--subset", "300"), "other settings: subset (None there, 300 here)"),
    ],
)
def test_another_search_is_refused_in_its_folder(call, search, tmp_path, arguments, message):
    out = tmp_path / "search"
    search(out, "--trials", "1")
    done = call(out, "--trials", "1", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--test", "true"), "nothing is chosen on test images"),
        (("--search", "lr,epochs"), "must be some of lr, momentum, weight_decay"),
        (("--lr", "0.1"), "lr=0.1 has no effect where it is searched"),
        (("--lr_range", "[0.1,0.01]"), "two rising numbers"),
        (
            ("--search", "lr", "--momentum_range", "[0.5,0.9]"),
            "momentum_range=(0.5, 0.9) has no effect on search='lr'",
        ),
        (("--optim", "sgdd"), "optim='sgdd' is not one of"),
        (("--backbone", "resnet19"), "backbone='resnet19' is not one of"),
        (("--stem", "small"), "stem='small' has no effect on backbone='resnet20'"),
        (("--initial_weights", "gone"), "gone"),
        (("--optim", "orth_lars", "--decay_all", "true"), "decay_all=True has no effect on optim"),
        (("--optim", "sgd", "--orth_layers", "conv"), "orth_layers='conv' has no effect on optim"),
        (("--optim", "orth_adam", "--nesterov", "true"), "nesterov=True is not an option of optim"),
        (("--subset", "2000"), "subset=2000 is more than the 1437 images of digits"),
        (("--data", "cifar10"), "data='cifar10' needs data_dir"),
        (("--data", "cifar10", "--data_dir", "gone"), "data_dir='gone' is not a folder"),
    ],
)
def test_mistakes_end_in_one_line_before_anything_starts(call, tmp_path, arguments, message):
    out = tmp_path / "search"
    done = call(out, "--trials", "1", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not out.exists()


@pytest.mark.slow
def test_real_trials_train(tmp_path):
    out = tmp_path / "search"
    small = ["--backbone", "basic_cnn", "--subset", "200", "--batch_size", "45", "--epochs", "1"]
    quick = ["--trials", "1", "--threads", "1", "--trackers", "none", "--out", str(out)]
    done = call_command("tune", *small, *quick)
    assert done.returncode == 0, done.stderr
    (summary,) = summaries(out).values()
    assert summary["val_top1"] > 0
    assert "top1" not in summary


def test_the_configuration_of_table_1_is_one_of_this_command():
    path = configs_folder() / "tune_table1.yaml"
    options = parse_options(TuneOptions, ["--config", str(path), "--data_dir", "D"])
    assert options.searched == ("lr", "momentum", "weight_decay")
    assert options.decay_all
    assert (options.schedule, options.milestones, options.epochs) == ("multi_step", [100, 150], 200)
