"""The watch over ranks, with processes that really end."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch.distributed as dist
from accelerate import Accelerator
from helpers.ranks import run_on_ranks

from sslortho.train.ranks import Rank, RankLostError, RankWatch, name_pid_space


@pytest.fixture
def rank_watch():
    """The watch of rank 0, and rank 1: a process of its own that runs until its input ends."""
    found = RankWatch(Accelerator(cpu=True), patience=0.2)
    found.alone = False
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        found.ranks.append(replace(found.ours, number=1, pid=other.pid))
        yield found, other
        other.kill()


def lose_contact():
    raise RuntimeError("Connection closed by peer")


def test_a_rank_that_ended_is_named(rank_watch):
    found, other = rank_watch
    assert found.ended() == []
    found.patience = 20
    other.kill()  # and not waited for: a zombie, as under a launcher that has not looked yet
    with (
        pytest.raises(RankLostError, match=f"rank 1 .process {other.pid} on .* has ended"),
        found.watch(),
    ):
        lose_contact()
    other.wait()
    assert [rank.number for rank in found.ended()] == [1]


def test_other_errors_pass(rank_watch):
    found, _ = rank_watch
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), found.watch():
        raise RuntimeError("shapes cannot be multiplied")
    with pytest.raises(ValueError, match="labels"), found.watch():
        raise ValueError("labels")


def test_a_rank_of_another_machine_is_lost_without_a_name(rank_watch):
    found, other = rank_watch
    found.ranks[1] = replace(found.ranks[1], host="elsewhere", pid_space="elsewhere")
    other.kill()
    with pytest.raises(RankLostError, match="another machine or one that hangs"), found.watch():
        raise dist.DistBackendError("watchdog")


def test_alone_nothing_is_asked():
    alone = RankWatch(Accelerator(cpu=True), patience=1e9)
    with pytest.raises(RuntimeError, match="peer"), alone.watch():
        lose_contact()


def test_this_process_has_not_ended():
    assert not Rank(0, "", os.getpid(), "").has_ended()


def test_a_container_of_the_same_host_name_is_not_looked_for(rank_watch):
    """Its processes have numbers of their own, which here belong to nobody or to others."""
    found, other = rank_watch
    found.ranks[1] = replace(found.ranks[1], pid_space="of a container")
    other.kill()
    other.wait()
    assert found.ended() == []


def test_processes_share_a_space_of_numbers_unless_one_is_made():
    code = "from sslortho.train.ranks import name_pid_space; print(name_pid_space())"

    def name_in(*launcher):
        command = [*launcher, sys.executable, "-c", code]
        return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)

    assert name_in().stdout.strip() == name_pid_space()
    if not shutil.which("unshare"):
        pytest.skip("no program makes namespaces here")
    apart = name_in("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")
    if apart.returncode:
        pytest.skip(f"no namespaces here: {apart.stderr.strip()[:100]}")
    assert apart.stdout.strip() != name_pid_space()
    assert apart.stdout.split()[0] == name_pid_space().split()[0]  # the host name


def test_where_the_system_does_not_tell_the_host_name_decides(monkeypatch):
    def refuse(path):
        raise PermissionError(path)

    monkeypatch.setattr(Path, "read_text", refuse)
    assert name_pid_space() == socket.gethostname()


def test_a_rank_lost_while_the_gpu_waits_ends_the_others(rank_watch):
    found, other = rank_watch
    found.guarded, told = True, threading.Event()
    messages = []

    def end(message):
        messages.append(message)
        told.set()

    with found._guard(end, interval=0.05, patience=0.05):
        assert not told.wait(0.3)  # both are at work
        other.kill()
        assert told.wait(20)  # while this thread waits, as in a GPU's queue
    assert f"rank 1 (process {other.pid} on " in messages[0]


def test_a_rank_that_ends_when_training_does_is_not_lost(rank_watch):
    found, other = rank_watch
    found.guarded, messages = True, []
    with found._guard(messages.append, interval=0.01, patience=60):
        other.kill()
        time.sleep(0.1)
    assert not messages
    assert not any(thread.name == "rank guard" for thread in threading.enumerate())


@pytest.mark.parametrize("guarded", [None, False])
def test_no_thread_guards_ranks_on_a_cpu(guarded):
    watch = RankWatch(Accelerator(cpu=True), guarded=guarded)
    watch.alone = False
    with watch.watch():
        assert not any(thread.name == "rank guard" for thread in threading.enumerate())


def test_the_end_of_a_process_does_not_wait_for_its_threads():
    code = (
        "import threading, time; from sslortho.train.ranks import end_process; "
        "threading.Timer(0.1, end_process, ['rank 1 has ended']).start(); time.sleep(600)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (1, "rank 1 has ended\n")


def _introduce(rank):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    found = RankWatch(Accelerator(cpu=True))
    return [[r.number for r in found.ranks], [r.pid for r in found.ranks], found.ended() == []]


@pytest.mark.ranks
def test_ranks_introduce_themselves(tmp_path):
    first, second = run_on_ranks(_introduce, 2, tmp_path)
    assert first == second
    assert first[0] == [0, 1]
    assert len(set(first[1])) == 2
