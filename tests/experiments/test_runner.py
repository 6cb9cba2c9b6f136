import fcntl
import json
import os
import signal
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from sslortho.config import SupervisedConfig, parse_config
from sslortho.experiments import runner
from sslortho.experiments.grid import Cell, Experiment, read_experiment
from sslortho.experiments.runner import (
    Job,
    Outcome,
    Runner,
    check_same_options,
    plan_jobs,
    visible_gpus,
)

PAPER = Path(__file__).parent.parent.parent / "configs" / "paper"

FAKE = """\
import json, os, signal, sys, time
from pathlib import Path

options = dict(zip((a[2:] for a in sys.argv[1::2]), sys.argv[2::2]))
out = Path(options["out"])
out.mkdir(parents=True, exist_ok=True)
with (out.parent / "journal").open("a") as journal:
    journal.write(out.name + chr(10))

def finish(**figures):
    (out / "summary.json").write_text(json.dumps({"diverged": False, **figures}))

def wait_for(done):
    deadline = time.monotonic() + 30
    while not done():
        if time.monotonic() > deadline:
            sys.exit("waited in vain")
        time.sleep(0.01)

mode = options["mode"]
if mode == "fail":
    print("first line" + chr(10) + "the reason")
    sys.exit(3)
if mode == "diverge":
    finish(diverged=True)
    sys.exit(1)
if mode == "meet":  # the other one must be there at the same time
    wait_for(lambda: len(list(out.parent.glob("*-s*"))) == 2)
if mode == "count":
    mark = out.parent / f"at-work-{os.getpid()}"
    mark.touch()
    time.sleep(0.15)
    finish(at_work=len(list(out.parent.glob("at-work-*"))))
    mark.unlink()
    sys.exit()
if mode in ("wait", "stubborn") and not (out / "saved").exists():
    def stop(number, frame):
        if mode == "wait":
            (out / "saved").touch()
            sys.exit(128 + number)
    signal.signal(signal.SIGTERM, stop)
    (out / "ready").touch()
    wait_for(lambda: False)
finish(gpu=os.environ.get("CUDA_VISIBLE_DEVICES"), session=os.getsid(0),
       threads=os.environ.get("OMP_NUM_THREADS"))
"""


@pytest.fixture
def plan(tmp_path):
    """Jobs of the fake script, a cell for each mode."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE)

    def plan(*modes, seeds=1):
        cells = tuple(Cell(f"c{i}", "x", {"mode": mode}) for i, mode in enumerate(modes))
        labels = {cell.row: cell.row for cell in cells}
        experiment = Experiment(
            "e", "E", "fake.py", seeds, labels, {"x": "X"}, cells, (), (), (), "digits"
        )
        return plan_jobs(experiment, tmp_path, tmp_path / "out", seeds, {})

    return plan


@pytest.fixture
def said():
    return []


def journal(jobs):
    path = jobs[0].folder.parent / "journal"
    return path.read_text().splitlines() if path.exists() else []


def summary(job):
    return json.loads((job.folder / "summary.json").read_text())


def test_the_first_seed_of_all_cells_comes_before_the_second_of_any(tmp_path):
    experiment = read_experiment(PAPER / "figure1.yaml")
    jobs = plan_jobs(experiment, tmp_path, Path("o"), 2, {"data_dir": "D", "subset": None})
    assert [job.name for job in jobs] == [
        "resnet20-sgd-s0", "resnet20-orth_sgd-s0", "resnet20-sgd-s1", "resnet20-orth_sgd-s1",
    ]  # fmt: skip
    last = jobs[-1]
    assert last.folder == Path("o/runs/resnet20-orth_sgd-s1")
    assert last.log == Path("o/logs/resnet20-orth_sgd-s1.log")
    assert last.script == tmp_path / "supervised.py"
    assert (last.options["seed"], last.options["data"], last.options["data_dir"]) == (
        1, "cifar10", "D",
    )  # fmt: skip
    assert "subset" not in last.options


@pytest.mark.parametrize(("name", "cell"), [("table1", 0), ("table2", 2), ("figure8", 1)])
def test_a_command_line_says_what_the_options_say(name, cell):
    experiment = read_experiment(PAPER / f"{name}.yaml")
    job = plan_jobs(experiment, Path("s"), Path("o"), 1, {"data_dir": "D"})[cell]
    parsed = asdict(parse_config(SupervisedConfig, job.arguments))
    for option, value in job.options.items():
        got = parsed[option]
        assert (list(got) if isinstance(got, tuple) else got) == value, option
    assert parsed["out"] == str(job.folder)


def test_runs_what_is_not_finished_in_order(plan, said):
    jobs = plan("ok", "ok", seeds=2)
    jobs[1].folder.mkdir(parents=True)
    (jobs[1].folder / "summary.json").write_text("{}")
    assert Runner([None], said.append).run(jobs) == Outcome((), None)
    assert journal(jobs) == ["c0-x-s0", "c0-x-s1", "c1-x-s1"]
    assert all(job.finished for job in jobs)
    assert said[0] == "started: c0-x-s0"
    assert [line.rsplit(";")[-1] for line in said[1::2]] == [" 2 left", " 1 left", " 0 left"]
    assert Runner([None], said.append).run(jobs) == Outcome((), None)
    assert len(journal(jobs)) == 3


def test_a_failure_is_told_and_the_others_go_on(plan, said):
    jobs = plan("ok", "fail", "ok")
    assert Runner([None], said.append).run(jobs) == Outcome(("c1-x-s0",), None)
    assert [job.finished for job in jobs] == [True, False, True]
    (failure,) = (line for line in said if line.startswith("failed"))
    assert "exit code 3" in failure
    assert failure.splitlines()[-2:] == ["  | first line", "  | the reason"]
    assert jobs[1].log.read_text().startswith("$ ")


def test_a_run_that_diverged_has_not_failed(plan, said):
    assert Runner([None], said.append).run(plan("diverge")) == Outcome((), None)
    assert said[-1].startswith("diverged: c0-x-s0")


def test_so_many_at_a_time_and_no_more(plan, said):
    assert Runner([None, None], said.append).run(plan("meet", "meet")).failed == ()


def test_no_more_at_a_time_than_places(plan, said):
    jobs = plan(*["count"] * 5)
    Runner([None, None], said.append).run(jobs)
    assert max(summary(job)["at_work"] for job in jobs) <= 2


def test_each_run_has_a_gpu_a_share_of_the_cores_and_a_session_of_its_own(plan, said, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    jobs = plan("meet", "meet")
    Runner(["4", "7"], said.append).run(jobs)
    assert sorted(summary(job)["gpu"] for job in jobs) == ["4", "7"]
    assert {summary(job)["threads"] for job in jobs} == {"4"}
    sessions = {summary(job)["session"] for job in jobs}
    assert len(sessions | {os.getsid(0)}) == 3


def send_when_ready(folder, *numbers):
    """Signals to this process, half a second apart, once a run waits for them."""

    def send():
        deadline = time.monotonic() + 30
        while not (folder / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.5)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_runs_save_and_the_same_again_resumes(plan, said, number):
    jobs = plan("wait", "ok")
    before = signal.getsignal(number)
    thread = send_when_ready(jobs[0].folder, number)
    assert Runner([None], said.append).run(jobs) == Outcome((), number)
    thread.join()
    assert (jobs[0].folder / "saved").exists()
    assert journal(jobs) == ["c0-x-s0"]  # the second was not started
    assert said[-1] == "stopped: c0-x-s0"
    assert signal.getsignal(number) is before
    assert Runner([None], said.append).run(jobs) == Outcome((), None)
    assert all(job.finished for job in jobs)


def test_a_second_signal_kills(plan, said):
    jobs = plan("stubborn")
    thread = send_when_ready(jobs[0].folder, signal.SIGTERM, signal.SIGTERM)
    assert Runner([None], said.append).run(jobs) == Outcome((), signal.SIGTERM)
    thread.join()
    assert not jobs[0].finished


def test_a_log_that_is_looked_at_for_an_instant_is_waited_for(plan, said, monkeypatch):
    (job,) = plan("ok")
    job.log.parent.mkdir(parents=True)
    job.log.touch()
    report, sleep = job.log.open("rb"), time.sleep
    fcntl.flock(report, fcntl.LOCK_SH)

    def look_away(seconds):
        report.close()
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", look_away)
    assert Runner([None], said.append).run([job]) == Outcome((), None)
    assert job.finished


def test_a_run_that_another_process_has_in_hand_is_left_alone(plan, said, monkeypatch):
    monkeypatch.setattr(runner, "LOCK_WAIT", 0.2)
    jobs = plan("ok", "ok")
    jobs[0].log.parent.mkdir(parents=True)
    with jobs[0].log.open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        assert Runner([None], said.append).run(jobs) == Outcome(("c0-x-s0",), None)
    assert journal(jobs) == ["c1-x-s0"]
    assert "another process" in said[0]


def test_a_run_holds_its_log_even_without_its_runner(plan, said, monkeypatch):
    monkeypatch.setattr(runner, "LOCK_WAIT", 0.2)
    (job,) = plan("wait")
    job.log.parent.mkdir(parents=True)
    first = Runner([None], said.append)
    first._start(job, 0)
    first.running[0].log.close()  # as if the runner were gone
    second = Runner([None], said.append)
    assert second.run([job]) == Outcome((job.name,), None)
    process = first.running[0].process
    process.kill()
    process.wait(30)


@pytest.fixture
def job(tmp_path):
    """A job whose folder holds a finished run."""
    folder = tmp_path / "runs" / "a-s0"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text("{}")
    options = {"lr": 0.1, "betas": [0.9, 0.99], "log_every": 5, "threads": 1, "batch_size": 4}
    (folder / "config.yaml").write_text("# SupervisedConfig\n" + yaml.safe_dump(options))

    def job(**others):
        return Job("a-s0", Path("s.py"), {**options, **others}, folder, tmp_path / "a.log")

    return job


def test_the_same_options_are_no_mistake(job):
    check_same_options([job(), job(betas=(0.9, 0.99), batch_size=4.0, unheard_of=3)], ())


def test_other_options_are_refused_with_both_values(job):
    with pytest.raises(ValueError, match="remove that folder") as caught:
        check_same_options([job(), job(lr=0.2)], {"log_every"})
    for part in (str(job().folder), "lr=0.1", "lr=0.2", "--out"):
        assert part in str(caught.value)


def test_some_options_may_change(job):
    check_same_options([job(log_every=9)], {"log_every"})
    with pytest.raises(ValueError, match="log_every=5"):
        check_same_options([job(log_every=9)], ())


def test_threads_may_change_once_a_run_is_finished(job):
    check_same_options([job(threads=2)], ())
    folder = job().folder
    (folder / "summary.json").unlink()
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step-1.pt").touch()
    with pytest.raises(ValueError, match="threads=1"):
        check_same_options([job(threads=2)], ())


def test_a_folder_without_results_may_be_used_for_anything(job):
    (job().folder / "summary.json").unlink()
    check_same_options([job(lr=0.2)], ())


@pytest.mark.parametrize(
    ("value", "gpus"),
    [("2,5", ["2", "5"]), ("GPU-1a, GPU-2b", ["GPU-1a", "GPU-2b"]), ("", []), ("-1", [])],
)
def test_chosen_gpus_are_taken(monkeypatch, value, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == gpus


def test_gpus_are_those_that_nvidia_smi_lists(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\necho '  MIG 1g.10gb Device 0'\n"
        "echo 'GPU 1: NVIDIA H100 (UUID: GPU-2)'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == ["0", "1"]
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert visible_gpus() == []
    program.unlink()
    assert visible_gpus() == []
