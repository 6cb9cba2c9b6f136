import errno
import fcntl
import json
import os
import signal
import threading
import time

import pytest

from sslortho.runs.lock import hold_folder, release_folder
from sslortho.runs.several import job_runner, jobs
from sslortho.runs.several.job_runner import JobRunner, Outcome
from sslortho.runs.several.jobs import Job
from sslortho.runs.status import Status, read_status, write_status

FAKE = """\
import json, os, signal, sys, time
from pathlib import Path

options = dict(zip((a[2:] for a in sys.argv[2::2]), sys.argv[3::2]))
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
if mode == "refuse":  # an error of its own when it is asked to stop
    def fail(number, frame):
        status = {"state": "failed", "message": "the disk is full"}
        (out / "status.json").write_text(json.dumps(status))
        sys.exit(1)
    signal.signal(signal.SIGTERM, fail)
    (out / "ready").touch()
    wait_for(lambda: False)
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
def plan(tmp_path, monkeypatch):
    """Jobs of the fake program, one for each mode and seed."""
    program = tmp_path / "fake.py"
    program.write_text(FAKE)
    monkeypatch.setattr(jobs, "PROGRAM", (str(program),))

    def plan(*modes, seeds=1):
        return [
            _job(tmp_path / "out", f"c{i}-x-s{seed}", {"mode": mode})
            for seed in range(seeds)
            for i, mode in enumerate(modes)
        ]

    return plan


def _job(out, name, options):
    return Job(name, "supervised", options, out / "runs" / name, out / "logs" / f"{name}.log")


@pytest.fixture
def said():
    return []


def journal(jobs):
    path = jobs[0].folder.parent / "journal"
    return path.read_text().splitlines() if path.exists() else []


def summary(job):
    return json.loads((job.folder / "summary.json").read_text())


@pytest.mark.slow
def test_runs_what_is_not_finished_in_order(plan, said):
    planned = plan("ok", "ok", seeds=2)
    planned[1].folder.mkdir(parents=True)
    (planned[1].folder / "summary.json").write_text("{}")
    assert JobRunner([None], said.append).run(planned) == Outcome()
    assert journal(planned) == ["c0-x-s0", "c0-x-s1", "c1-x-s1"]
    assert all(job.finished for job in planned)
    assert said[0] == "started: c0-x-s0"
    assert [line.rsplit(";")[-1] for line in said[1::2]] == [" 2 left", " 1 left", " 0 left"]
    assert JobRunner([None], said.append).run(planned) == Outcome()
    assert len(journal(planned)) == 3


def test_a_failure_is_told_and_the_others_go_on(plan, said):
    planned = plan("ok", "fail", "ok")
    assert JobRunner([None], said.append).run(planned) == Outcome(failed=("c1-x-s0",))
    assert [job.finished for job in planned] == [True, False, True]
    (failure,) = (line for line in said if line.startswith("failed"))
    assert "exit code 3" in failure
    assert failure.splitlines()[-2:] == ["  | first line", "  | the reason"]
    assert planned[1].log.read_text().startswith("$ ")


def test_a_run_that_diverged_has_not_failed(plan, said):
    assert JobRunner([None], said.append).run(plan("diverge")) == Outcome()
    assert said[-1].startswith("diverged: c0-x-s0")


def test_so_many_at_a_time_and_no_more(plan, said):
    assert JobRunner([None, None], said.append).run(plan("meet", "meet")).failed == ()


@pytest.mark.slow
def test_no_more_at_a_time_than_places(plan, said):
    planned = plan(*["count"] * 5)
    JobRunner([None, None], said.append).run(planned)
    assert max(summary(job)["at_work"] for job in planned) <= 2


def test_each_run_has_a_gpu_a_share_of_the_cores_and_a_session_of_its_own(plan, said, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    planned = plan("meet", "meet")
    JobRunner(["4", "7"], said.append).run(planned)
    assert sorted(summary(job)["gpu"] for job in planned) == ["4", "7"]
    assert {summary(job)["threads"] for job in planned} == {"4"}
    sessions = {summary(job)["session"] for job in planned}
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


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_the_runs_save_and_the_same_again_resumes(plan, said, number):
    planned = plan("wait", "ok")
    before = signal.getsignal(number)
    thread = send_when_ready(planned[0].folder, number)
    assert JobRunner([None], said.append).run(planned) == Outcome(signal=number)
    thread.join()
    assert (planned[0].folder / "saved").exists()
    assert journal(planned) == ["c0-x-s0"]  # the second was not started
    assert said[-1] == "stopped: c0-x-s0"
    assert signal.getsignal(number) is before
    assert JobRunner([None], said.append).run(planned) == Outcome()
    assert all(job.finished for job in planned)


def test_a_run_that_fails_while_the_others_stop_has_failed(plan, said):
    planned = plan("wait", "refuse")
    thread = send_when_ready(planned[1].folder, signal.SIGTERM)
    outcome = JobRunner([None, None], said.append).run(planned)
    thread.join()
    assert outcome == Outcome(failed=("c1-x-s0",), signal=signal.SIGTERM)


@pytest.mark.parametrize("state", ["stopped", "killed"])
def test_a_run_that_ends_without_being_asked_to_has_failed(plan, said, state):
    (job,) = plan("fail")
    job.folder.mkdir(parents=True)
    write_status(job.folder, "running" if state == "killed" else state)
    assert JobRunner([None], said.append).run([job]) == Outcome(failed=(job.name,))


@pytest.mark.slow
def test_a_second_signal_kills(plan, said):
    planned = plan("stubborn")
    thread = send_when_ready(planned[0].folder, signal.SIGTERM, signal.SIGTERM)
    assert JobRunner([None], said.append).run(planned) == Outcome(signal=signal.SIGTERM)
    thread.join()
    assert not planned[0].finished


@pytest.mark.slow
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGHUP])
def test_the_end_of_a_session_is_one_signal(plan, said, first):
    (job,) = plan("slow")
    second = ({signal.SIGTERM, signal.SIGHUP} - {first}).pop()
    thread = send_when_ready(job.folder, first, second)
    assert JobRunner([None], said.append).run([job]) == Outcome(signal=signal.SIGTERM)
    thread.join()
    assert (job.folder / "saved").exists()


@pytest.mark.slow
def test_what_nohup_ignores_stays_ignored(plan, said):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        (job,) = plan("wait")
        thread = send_when_ready(job.folder, signal.SIGHUP, signal.SIGTERM)
        assert JobRunner([None], said.append).run([job]) == Outcome(signal=signal.SIGTERM)
        thread.join()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_is_gone_stops_nothing(plan):
    def say(line):
        raise OSError("Input/output error")

    planned = plan("ok", "fail")
    assert JobRunner([None], say).run(planned) == Outcome(failed=("c1-x-s0",))
    assert planned[0].finished


@pytest.mark.slow
def test_a_free_place_has_the_next_job_at_once(plan, said):
    long, *short = plan("wait", "ok", "ok", "ok")
    order = []

    def offer():
        yield long
        yield from short
        # all three ran beside the first, which ends at this only
        assert order == [job.name for job in short]
        running.running[0].process.kill()

    running = JobRunner([None, None], said.append)
    outcome = running.run(offer(), lambda job, ending: order.append(job.name))
    assert outcome == Outcome(failed=(long.name,))
    assert order[-1] == long.name
    assert not any("left" in line for line in said)  # nobody knows how many come


@pytest.mark.slow
def test_how_each_ended_is_told_and_none_now_is_asked_again(plan, said, monkeypatch):
    monkeypatch.setattr(job_runner, "LOCK_WAIT", 0.0)
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
        outcome = JobRunner([None], said.append).run(offer(), ended)
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
        JobRunner([None, None], said.append).run(offer(), ended)
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
    assert JobRunner([None], said.append).run([job]) == Outcome()
    assert job.finished


def test_a_run_that_another_process_has_in_hand_is_left_alone(plan, said, monkeypatch):
    monkeypatch.setattr(job_runner, "LOCK_WAIT", 0.2)
    planned = plan("ok", "ok")
    planned[0].log.parent.mkdir(parents=True)
    with planned[0].log.open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        assert JobRunner([None], said.append).run(planned) == Outcome(busy=("c0-x-s0",))
    assert journal(planned) == ["c1-x-s0"]
    assert said[0] == "busy: c0-x-s0 is being run by another process; 1 left"


def test_a_run_that_somebody_started_by_hand_is_left_alone(plan, said):
    """It holds its folder, and not the log."""
    by_hand, other = planned = plan("ok", "ok")
    hold_folder(by_hand.folder)
    try:
        write_status(by_hand.folder, "running")
        assert JobRunner([None], said.append).run(planned) == Outcome(busy=(by_hand.name,))
        assert read_status(by_hand.folder) == Status("running", None)
    finally:
        release_folder(by_hand.folder)
    assert journal(planned) == [other.name]
    assert said[0] == f"busy: {by_hand.name} is being run by another process; 1 left"
    assert JobRunner([None], said.append).run(planned) == Outcome()
    assert journal(planned) == [other.name, by_hand.name]


def test_where_there_are_no_locks_runs_are_started(plan, said, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    (job,) = plan("ok")
    assert JobRunner([None], said.append).run([job]) == Outcome()
    assert job.finished


def test_a_run_holds_its_log_even_without_its_runner(plan, said, monkeypatch):
    monkeypatch.setattr(job_runner, "LOCK_WAIT", 0.2)
    (job,) = plan("wait")
    job.log.parent.mkdir(parents=True)
    first = JobRunner([None], said.append)
    first._start(job, 0)
    first.running[0].log.close()  # as if the runner were gone
    second = JobRunner([None], said.append)
    assert second.run([job]) == Outcome(busy=(job.name,))
    process = first.running[0].process
    process.kill()
    process.wait(30)


RANKS = """
import json, os, pathlib, sys
given = dict(zip((a[2:] for a in sys.argv[2::2]), sys.argv[3::2]))
out = pathlib.Path(given["out"])
out.mkdir(parents=True, exist_ok=True)
names = ("RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES")
(out / f"rank{os.environ['RANK']}.json").write_text(json.dumps([os.environ[n] for n in names]))
if os.environ["RANK"] == "0":
    (out / "summary.json").write_text("{}")
"""


@pytest.mark.slow
def test_a_run_of_several_gpus_is_a_process_for_each(tmp_path, monkeypatch):
    program = tmp_path / "ranks.py"
    program.write_text(RANKS)
    monkeypatch.setattr(jobs, "PROGRAM", (str(program),))
    job = Job("a", "supervised", {}, tmp_path / "a", tmp_path / "a.log")
    assert JobRunner(["4,6"], print).run([job]) == Outcome()
    for rank in ("0", "1"):
        told = json.loads((tmp_path / "a" / f"rank{rank}.json").read_text())
        assert told == [rank, "2", "4,6"]
