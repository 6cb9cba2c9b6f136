"""gpu_proof.py: the rehearsal as a whole, and what becomes of units that fail, hang or run out of time."""

import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from helpers.script_runs import call_script

from proof_stages import suites, trainings
from proof_stages.conduct import Conductor, _end
from proof_stages.context import Context
from proof_stages.options import ProofOptions
from proof_stages.registry import UNITS, Unit, choose_units, find_unit
from proof_stages.results import Results, read_whole
from proof_stages.suites import read_report
from proof_stages.tables import write_tables
from proof_stages.worker import carry_out

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def rehearse(out, *arguments):
    command = [sys.executable, str(BENCHMARKS / "gpu_proof.py"), "--rehearse", "--out", str(out)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.timeout(900)  # two minutes of a core that nothing else uses
def test_the_rehearsal_runs_every_unit_and_fills_every_table(tmp_path):
    done = rehearse(tmp_path)
    results = read_whole(tmp_path)
    failed = {n: r["error"] for n, r in results.items() if r["state"] != "done"}
    assert not failed
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(results) == {unit.name for unit in UNITS}
    tables = (tmp_path / "tables.md").read_text()
    assert tables.startswith("**A rehearsal at toy size on a CPU")
    assert "Not measured" not in tables
    assert tables.count("\n## ") == 9
    file = tmp_path / "gpu_proof.json"
    printed = call_script("gpu_proof", "table", file)
    assert printed.stdout == tables
    tests = results["tests.gpu"]["figures"]
    assert tests["skipped"] == tests["tests"] > 100  # no GPU is seen
    assert results["bits.usual"]["figures"]["same_bits"]  # on a CPU
    before = file.read_bytes()
    assert rehearse(tmp_path).returncode == 0  # nothing is left to do
    assert file.read_bytes() == before


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tests_for_a_gpu_run_on_a_cpu_where_they_can(tmp_path):
    """So that they do not fail on a GPU for a slip of the pen."""
    tests = BENCHMARKS.parent / "tests"
    files = [str(p) for p in sorted(tests.rglob("test_on_gpu.py"))]
    assert len(files) == 6
    report = tmp_path / "report.xml"
    command = [
        sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", f"--junitxml={report}",
    ]  # fmt: skip
    own = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "SSLORTHO_REHEARSE_GPU": "1"}
    done = subprocess.run(
        [*command, *files], cwd=BENCHMARKS.parent, env={**os.environ, **own}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
    counts = read_report(report.read_text())
    assert counts["passed"] > 80
    assert counts["skipped"] == 2  # fp16


def test_units_are_chosen_by_their_beginnings():
    assert [unit.name for unit in choose_units("step, bits.usual")] == [
        "step.resnet50", "step.resnet18", "bits.usual",
    ]  # fmt: skip
    assert len(choose_units(None)) == len({unit.name for unit in UNITS})
    with pytest.raises(ValueError, match="'stop' begins no unit"):
        choose_units("step,stop")


def test_epochs_fill_the_time_that_there_is():
    """50,000 images at 25,000 a second are 2 s, and twice 5 s: 12 s for an epoch of all three."""
    rates = {"lars": 25_000.0, "orth_lars": 10_000.0}
    seconds = 12 * 40 / trainings.SHARE
    assert trainings.choose_epochs(seconds + 0.1, rates) == 40
    assert trainings.choose_epochs(seconds - 0.1, rates) == 39
    assert trainings.choose_epochs(1e9, rates) == trainings.MOST_EPOCHS
    assert trainings.choose_epochs(1, rates) == trainings.FEWEST_EPOCHS
    assert trainings.choose_epochs(1e9, {"lars": 1.0}) == trainings.UNMEASURED_EPOCHS


def test_a_report_of_pytest_is_counted():
    text = """<testsuites><testsuite>
        <testcase classname="a" name="good"/>
        <testcase classname="a" name="bad"><failure message="no"/></testcase>
        <testcase classname="a" name="broken"><error message="no"/></testcase>
        <testcase classname="a" name="left"><skipped message="no GPU"/></testcase>
        </testsuite></testsuites>"""
    assert read_report(text) == {
        "tests": 4, "passed": 1, "skipped": 1, "failed": ["a::bad", "a::broken"],
    }  # fmt: skip


CASES = {"good": "", "bad": "<failure/>", "left": "<skipped/>"}


@pytest.mark.parametrize(
    ("rehearse", "cases", "state", "error"),
    [
        (False, ["good", "left"], "done", None),
        (False, ["good", "bad"], "failed", "1 of 2 tests failed"),
        (True, ["bad"], "failed", "1 of 1 tests failed"),
        (False, ["left", "left"], "failed", "all 2 tests were skipped"),
        (True, ["left"], "done", None),  # a rehearsal sees no GPU
    ],
)
def test_tests_that_failed_or_were_all_skipped_are_not_done(
    tmp_path, monkeypatch, rehearse, cases, state, error
):
    context = Context(ProofOptions(out=str(tmp_path), rehearse=rehearse))
    commit = context.commit  # asked of git now, before pytest's place is taken
    text = "".join(f'<testcase classname="a" name="{c}">{CASES[c]}</testcase>' for c in cases)

    def run_pytest(command, **others):
        (report,) = (Path(c.split("=")[1]) for c in command if str(c).startswith("--junitxml="))
        report.write_text(f"<testsuites>{text}</testsuites>")
        return subprocess.CompletedProcess(command, int("bad" in cases))

    monkeypatch.setattr(suites.subprocess, "run", run_pytest)
    carry_out(context, find_unit("tests.suite"))
    result = context.results.read("tests.suite")
    assert result["state"] == state
    assert result["figures"]["tests"] == len(cases)
    assert result["commit"] == commit
    assert error is None or error in result["error"]


def test_tables_hold_the_figures_and_name_what_is_missing():
    method = {"seconds": 0.0025, "ratio": 40.0, "worst_error": 1e-4}
    machine = {
        "rehearsal": False, "gpu": "a GPU", "processor": "", "cores": 4, "versions": {"torch": "2"},
        "commit": "abc", "date": "2026-12-01T00:00:00",
    }  # fmt: skip
    row = {"optimizer_seconds": 0.002, "step_seconds": 0.2, "synchronisations": 1}
    figures = {
        "machine": machine,
        "optim.resnet50-real": {"methods": {"ours": method}},
        "step.resnet50": {
            "backbone": "resnet50", "crop_size": 224, "batch_size": 256, "forward": 0.06,
            "backward": 0.12, "optimizers": {"LARS": row}, "peak_gib": 31.26,
            "graphs": {"LARS": {"step_seconds": 0.15}},
        },
        "step.resnet18": {
            "backbone": "resnet18", "crop_size": 32, "batch_size": 256, "forward": 0.06,
            "backward": 0.12, "optimizers": {"LARS": row}, "peak_gib": 2.0,
            "graphs": {"error": "RuntimeError: no graph"},
        },
        "table3": {"epochs": 100, "runs": {"resnet20-orth_sgd-s0": {"top1": 87.5}}},
    }  # fmt: skip
    results = {name: {"state": "done", "figures": f} for name, f in figures.items()}
    results["views.224"] = {"state": "failed", "error": "first\nout of memory"}
    tables = write_tables(results)
    assert "rehearsal" not in tables
    assert "| ours | 2.50 (40.0x) | 1e-04 |" in tables
    step = "LARS | 60.00 | 120 | 2.00 | 200 | 1,280"  # 256 / 0.2
    assert f"| resnet50, 224 | {step} | 150 | 1 | 31.3 |" in tables
    assert f"| resnet18, 32 | {step} | RuntimeError: no graph | 1 | 2.0 |" in tables
    assert "| resnet20 | 100 |  | 87.50 | 79.14 ± 0.62 | 87.12 ± 0.12 |" in tables
    assert "- `views.224`: failed, out of memory" in tables
    assert "- `pretrain`: not begun" in tables
    assert "- `table3`" not in tables


def test_tables_show_runs_that_diverged():
    """Figures of theirs that are not finite are null in summary.json; a training may lack its shares."""
    run = {"setting_lr": 0.1, "loss": None, "knn_top1": None, "diverged": True}
    good = {"setting_lr": 0.1, "loss": 5.04, "knn_top1": 60.0, "linear_top1": 70.0}
    rate = {"images_per_second": 10.0, "slowest": 9.0, "fastest": 11.0, "images": "noise"}
    figures = {
        "pretrain": {"epochs": 5, "row": "resnet18", "runs": {"a-s0": run, "b-s0": good}},
        "table3": {
            "epochs": 9,
            "runs": {
                "resnet20-sgd-s0": {"top1": None, "diverged": True},
                "resnet20-orth_sgd-s0": {"top1": 80.0},
            },
        },
        "rates.a": rate,
        "rates.b": {**rate, "time_shares": {"loader": 0.1, "step": 0.6, "optimizer": 0.3}},
    }
    tables = write_tables({n: {"state": "done", "figures": f} for n, f in figures.items()})
    assert "| a | 0.1 | 5 | diverged |  |  |" in tables
    assert "| b | 0.1 | 5 | 5.0 | 60.00 | 70.00 |" in tables
    assert "| resnet20 | 9 | diverged | 80.00 |" in tables
    assert "| a | 10 | 9 to 11 |  |  |  |  | noise |" in tables
    assert "| b | 10 | 9 to 11 | 10 % | 60 % | 30 % |  | noise |" in tables


def test_tables_warn_of_results_of_several_gpus_or_commits():
    same = {"state": "done", "gpu": "H200", "commit": "abc"}
    results = {"bits.usual": same, "step.resnet18": same, "views.32": {"state": "failed"}}
    assert "several" not in write_tables(results)
    for other in ({"gpu": "A100"}, {"commit": "def"}):
        tables = write_tables({**results, "views.224": same | other})
        assert "**Results of several GPUs or commits: do not compare them.**" in tables
        assert "- H200, commit abc: `bits.usual`, `step.resnet18`\n" in tables
        gpu, commit = (other.get("gpu", "H200"), other.get("commit", "abc"))
        assert f"- {gpu}, commit {commit}: `views.224`\n" in tables


class Rehearsed(Conductor):
    """A conductor whose workers do what a script says, in the place of real measurements."""

    script = ""

    def _command(self, todo):
        names = ",".join(unit.name for unit in todo)
        return [sys.executable, "-c", self.script, str(self.context.out), names]


WORK = """
    import os, signal, sys, time
    from pathlib import Path
    from proof_stages.results import Results
    results = Results(Path(sys.argv[1]))
    for name in sys.argv[2].split(","):
        if name.endswith("unborn"):
            print("no module"); sys.exit(3)
        results.begin(name)
        (results.folder / "begun.txt").open("a").write(name + " ")
        if name.endswith("crash"):
            print("the last words"); sys.stdout.flush(); os.kill(os.getpid(), signal.SIGKILL)
        if name.endswith("hang"):
            time.sleep(60)
        results.write(name, "done", seconds=0, figures={"value": 1})
"""


@pytest.fixture
def conduct(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS))

    def run(units, seconds=30.0, **options):
        context = Context(ProofOptions(out=str(tmp_path), **options))
        conductor = Rehearsed(context, units, time.time() + seconds)
        conductor.script = textwrap.dedent(WORK)
        conductor.run()
        return context.results

    return run


def unit(name, **changes):
    return replace(Unit(name, "", 1, 20), **changes)


def begun(results):
    return (results.folder / "begun.txt").read_text().split()


def test_a_crash_costs_one_unit_and_its_last_words_are_kept(conduct, capsys):
    units = [unit("a.good"), unit("a.crash"), unit("a.after"), unit("b.good")]
    results = conduct(units)
    assert {u.name: results.state(u.name) for u in units} == {
        "a.good": "done", "a.crash": "failed", "a.after": "done", "b.good": "done",
    }  # fmt: skip
    error = results.read("a.crash")["error"]
    assert "the last words" in error
    assert "exit code -9" in error
    conduct(units)  # what failed is not tried again unasked, nor what is done
    assert begun(results).count("a.crash") == 1
    conduct(units, retry=True)
    assert begun(results).count("a.crash") == 2
    assert begun(results).count("a.good") == 1
    assert "a.crash: failed, exit code -9" in capsys.readouterr().out


def test_a_worker_that_ends_before_a_unit_begins_is_not_started_for_ever(conduct):
    results = conduct([unit("a.unborn"), unit("a.good"), unit("b.unborn")], seconds=20.0)
    states = [results.state(name) for name in ("a.unborn", "a.good", "b.unborn")]
    assert states == ["failed", "done", "failed"]
    error = results.read("a.unborn")["error"]
    assert error == "no module\nits process ended before it began, exit code 3"


def test_what_a_unit_has_started_ends_with_it():
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '100'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(100)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as worker:
        child = psutil.Process(int(worker.stdout.readline()))
        _end(worker, 10.0)
        assert worker.returncode == -signal.SIGTERM
        gone, _ = psutil.wait_procs([child], timeout=10)
        assert gone or child.status() == psutil.STATUS_ZOMBIE


def test_a_training_may_take_all_the_time_of_a_command():
    limits = {unit.name: unit.limit for unit in UNITS if unit.resumes}
    assert limits == {"pretrain": math.inf, "table3": math.inf}


def test_a_unit_that_hangs_is_ended_and_the_others_run(conduct):
    results = conduct([unit("a.hang", limit=1.0), unit("a.good")])
    assert results.state("a.good") == "done"
    assert "took more than 1 s" in results.read("a.hang")["error"]


def test_when_the_time_is_over_a_unit_is_left_for_the_next_command(conduct):
    results = conduct([unit("a.good"), unit("a.hang"), unit("b.long", seconds=500)], seconds=3.0)
    states = {name: results.state(name) for name in ("a.good", "a.hang", "b.long")}
    assert states == {"a.good": "done", "a.hang": "pending", "b.long": "pending"}
    assert begun(results) == ["a.good", "a.hang"]  # the long one was not begun in vain


def test_results_of_a_rehearsal_and_of_a_gpu_do_not_mix(tmp_path):
    Results(tmp_path).write("machine", "done", figures={"rehearsal": True})
    done = call_script("gpu_proof", "--out", tmp_path)
    assert done.returncode == 2
    assert "holds results of a rehearsal; give another --out" in done.stderr


def test_mistakes_are_named(tmp_path):
    done = call_script("gpu_proof", "--out", tmp_path, "--cifar", tmp_path / "none")
    assert done.returncode == 2
    assert "cifar=" in done.stderr
    done = call_script("gpu_proof", "table", tmp_path)
    assert done.returncode == 2
    assert "neither a folder of gpu_proof.py nor its gpu_proof.json" in done.stderr
    with pytest.raises(ValueError, match="minutes="):
        ProofOptions(minutes=0)
