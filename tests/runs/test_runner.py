import fcntl
import json
import os
import signal
import threading
import time

import pytest

from sslortho.runs import runner
from sslortho.paper.grid import Cell, Experiment
from sslortho.runs.jobs import Job, plan_jobs
from sslortho.runs.runner import Outcome, Runner, choose_places, visible_gpus

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
if mode in ("wait", "slow", "stubborn") and not (out / "saved").exists():
    def stop(number, frame):
        if mode == "slow":
            time.sleep(1)
        if mode != "stubborn":
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


def test_runs_what_is_not_finished_in_order(plan, said):
    jobs = plan("ok", "ok", seeds=2)
    jobs[1].folder.mkdir(parents=True)
    (jobs[1].folder / "summary.json").write_text("{}")
    assert Runner([None], said.append).run(jobs) == Outcome()
    assert journal(jobs) == ["c0-x-s0", "c0-x-s1", "c1-x-s1"]
    assert all(job.finished for job in jobs)
    assert said[0] == "started: c0-x-s0"
    assert [line.rsplit(";")[-1] for line in said[1::2]] == [" 2 left", " 1 left", " 0 left"]
    assert Runner([None], said.append).run(jobs) == Outcome()
    assert len(journal(jobs)) == 3


def test_a_failure_is_told_and_the_others_go_on(plan, said):
    jobs = plan("ok", "fail", "ok")
    assert Runner([None], said.append).run(jobs) == Outcome(failed=("c1-x-s0",))
    assert [job.finished for job in jobs] == [True, False, True]
    (failure,) = (line for line in said if line.startswith("failed"))
    assert "exit code 3" in failure
    assert failure.splitlines()[-2:] == ["  | first line", "  | the reason"]
    assert jobs[1].log.read_text().startswith("$ ")


def test_a_run_that_diverged_has_not_failed(plan, said):
    assert Runner([None], said.append).run(plan("diverge")) == Outcome()
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_the_runs_save_and_the_same_again_resumes(plan, said, number):
    jobs = plan("wait", "ok")
    before = signal.getsignal(number)
    thread = send_when_ready(jobs[0].folder, number)
    assert Runner([None], said.append).run(jobs) == Outcome(signal=number)
    thread.join()
    assert (jobs[0].folder / "saved").exists()
    assert journal(jobs) == ["c0-x-s0"]  # the second was not started
    assert said[-1] == "stopped: c0-x-s0"
    assert signal.getsignal(number) is before
    assert Runner([None], said.append).run(jobs) == Outcome()
    assert all(job.finished for job in jobs)


def test_a_second_signal_kills(plan, said):
    jobs = plan("stubborn")
    thread = send_when_ready(jobs[0].folder, signal.SIGTERM, signal.SIGTERM)
    assert Runner([None], said.append).run(jobs) == Outcome(signal=signal.SIGTERM)
    thread.join()
    assert not jobs[0].finished


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGHUP])
def test_the_end_of_a_session_is_one_signal(plan, said, first):
    (job,) = plan("slow")
    second = ({signal.SIGTERM, signal.SIGHUP} - {first}).pop()
    thread = send_when_ready(job.folder, first, second)
    assert Runner([None], said.append).run([job]) == Outcome(signal=signal.SIGTERM)
    thread.join()
    assert (job.folder / "saved").exists()


def test_what_nohup_ignores_stays_ignored(plan, said):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        (job,) = plan("wait")
        thread = send_when_ready(job.folder, signal.SIGHUP, signal.SIGTERM)
        assert Runner([None], said.append).run([job]) == Outcome(signal=signal.SIGTERM)
        thread.join()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_is_gone_stops_nothing(plan):
    def say(line):
        raise OSError("Input/output error")

    jobs = plan("ok", "fail")
    assert Runner([None], say).run(jobs) == Outcome(failed=("c1-x-s0",))
    assert jobs[0].finished


def test_a_free_place_has_the_next_job_at_once(plan, said):
    long, *short = plan("wait", "ok", "ok", "ok")
    order = []

    def offer():
        yield long
        yield from short
        # all three ran beside the first, which ends at this only
        assert order == [job.name for job in short]
        runner.running[0].process.kill()

    runner = Runner([None, None], said.append)
    outcome = runner.run(offer(), lambda job, ending: order.append(job.name))
    assert outcome == Outcome(failed=(long.name,))
    assert order[-1] == long.name
    assert not any("left" in line for line in said)  # nobody knows how many come


def test_how_each_ended_is_told_and_none_now_is_asked_again(plan, said, monkeypatch):
    monkeypatch.setattr(runner, "LOCK_WAIT", 0.0)
    done, ok, diverging, failing, busy = plan("ok", "ok", "diverge", "fail", "ok")
    done.folder.mkdir(parents=True)
    (done.folder / "summary.json").write_text("{}")
    busy.log.parent.mkdir(parents=True)
    endings = {}

    def offer():
        yield from (done, ok)
        while ok.name not in endings:
            yield None
        yield from (diverging, failing, busy)

    with busy.log.open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        ended = lambda job, ending: endings.update({job.name: ending})  # noqa: E731
        outcome = Runner([None], said.append).run(offer(), ended)
    assert list(endings.values()) == ["finished", "finished", "finished", "failed", "busy"]
    assert outcome == Outcome(failed=(failing.name,), busy=(busy.name,))


def test_an_error_of_the_caller_lets_the_others_save(plan, said):
    waiting, ok = plan("wait", "ok")

    def offer():
        yield waiting
        while not (waiting.folder / "ready").exists():
            yield None
        yield ok

    def ended(job, ending):
        raise RuntimeError(job.name)

    with pytest.raises(RuntimeError, match=ok.name):
        Runner([None, None], said.append).run(offer(), ended)
    assert (waiting.folder / "saved").exists()


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
    assert Runner([None], said.append).run([job]) == Outcome()
    assert job.finished


def test_a_run_that_another_process_has_in_hand_is_left_alone(plan, said, monkeypatch):
    monkeypatch.setattr(runner, "LOCK_WAIT", 0.2)
    jobs = plan("ok", "ok")
    jobs[0].log.parent.mkdir(parents=True)
    with jobs[0].log.open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        assert Runner([None], said.append).run(jobs) == Outcome(busy=("c0-x-s0",))
    assert journal(jobs) == ["c1-x-s0"]
    assert said[0] == "busy: c0-x-s0 is being run by another process; 1 left"


def test_a_run_holds_its_log_even_without_its_runner(plan, said, monkeypatch):
    monkeypatch.setattr(runner, "LOCK_WAIT", 0.2)
    (job,) = plan("wait")
    job.log.parent.mkdir(parents=True)
    first = Runner([None], said.append)
    first._start(job, 0)
    first.running[0].log.close()  # as if the runner were gone
    second = Runner([None], said.append)
    assert second.run([job]) == Outcome(busy=(job.name,))
    process = first.running[0].process
    process.kill()
    process.wait(30)


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


@pytest.mark.parametrize(
    ("gpus", "jobs", "places"),
    [
        ("", None, [None]),
        ("", 2, [None, None]),
        ("4,7", None, ["4", "7"]),
        ("4,7", 1, ["4"]),
        ("4,7", 3, ["4", "7", "4"]),
    ],
)
def test_places_are_one_a_gpu_or_as_many_as_asked(monkeypatch, gpus, jobs, places):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    assert choose_places(jobs) == places


@pytest.mark.parametrize(
    ("jobs", "each", "places"),
    [
        (None, 2, ["0,1", "2,3"]),
        (None, 3, ["0,1,2"]),
        (1, 2, ["0,1"]),
        (3, 2, ["0,1", "2,3", "0,1"]),
    ],
)
def test_a_run_may_have_several_gpus(monkeypatch, jobs, each, places):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4"[: 9 if each == 3 else 7])
    assert choose_places(jobs, each) == places


def test_more_gpus_a_run_than_there_are_is_an_error(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(ValueError, match="gpus_per_run=4, but 2 GPUs are there"):
        choose_places(None, 4)


RANKS = """
import json, os, pathlib, sys
given = dict(zip((a[2:] for a in sys.argv[1::2]), sys.argv[2::2]))
out = pathlib.Path(given["out"])
out.mkdir(parents=True, exist_ok=True)
names = ("RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES")
(out / f"rank{os.environ['RANK']}.json").write_text(json.dumps([os.environ[n] for n in names]))
if os.environ["RANK"] == "0":
    (out / "summary.json").write_text("{}")
"""


def test_a_run_of_several_gpus_is_a_process_for_each(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    job = Job("a", script, {}, tmp_path / "a", tmp_path / "a.log")
    assert Runner(["4,6"], print).run([job]) == Outcome()
    for rank in ("0", "1"):
        told = json.loads((tmp_path / "a" / f"rank{rank}.json").read_text())
        assert told == [rank, "2", "4,6"]
