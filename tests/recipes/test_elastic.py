"""Ranks and machines that die, leave and come back, under torchrun and Accelerate.

A machine is a launcher of its own here; all of them share this one's CPU, over gloo.
"""

import re
import socket
import sys
import time

import psutil
import pytest
import torch
from helpers.script_runs import SCRIPTS, TORCHRUN, finish, records, start_script, wait_for_records

SMALL = [
    "--backbone", "basic_cnn", "--projector", "32-32", "--subset", "400", "--batch_size", "100",
    "--epochs", "4", "--warmup_epochs", "1", "--log_every", "1", "--lr", "5", "--threads", "1",
    "--channels_last", "false", "--optim", "orth_lars", "--trackers", "none",
    "--evaluate_every", "0", "--linear_probe", "false", "--keep_last", "4",
]  # fmt: skip
STEPS_PER_EPOCH = 4
RUN = (sys.executable, "-m", "torch.distributed.run")
# without it restarted ranks may read the addresses of those before them:
# https://github.com/pytorch/pytorch/issues/135712
OWN_STORE = ("env", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1")


def start(out, *launcher):
    return start_script("pretrain.py", *SMALL, "--out", str(out), launcher=launcher)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def environment_of(process):
    try:
        return process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # a short-lived child that has just ended
        return {}


def find_rank(launcher, *ranks):
    """The process of one of these ranks that a launcher has started, or will."""
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        for process in psutil.Process(launcher.pid).children():
            if environment_of(process).get("RANK") in map(str, ranks):
                return process
        time.sleep(0.02)
    raise AssertionError(f"no rank {ranks}; the launcher has ended with {launcher.poll()}")


def kill_in_second_epoch(out, *processes):
    wait_for_records(out, STEPS_PER_EPOCH + 2)
    for process in processes:
        process.kill()
    assert not (out / "summary.json").exists()


def resumed_step(told):
    """Step of the checkpoint that a training went on from: the first, or a later one if the kill came late."""
    (step,) = re.findall(r"resuming at step (\d+)", told)
    assert int(step) in (STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH, 3 * STEPS_PER_EPOCH)
    return int(step)


def weights(out, step=4 * STEPS_PER_EPOCH):
    (path,) = (out / "checkpoints").glob(f"step-{step:08d}*.pt")
    return torch.load(path, weights_only=True)["task"]


def flat_weights(out, step=4 * STEPS_PER_EPOCH):
    return torch.cat([value.double().flatten() for value in weights(out, step).values()])


def assert_same_weights(first, second):
    first, second = weights(first), weights(second)
    assert list(first) == list(second)
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Two machines that share nothing but the port, start to end; their folders, what they told.

    Under the file for two machines of eight GPUs, with one CPU process on each.
    """
    folder, port, machines = tmp_path_factory.mktemp("machines"), free_port(), []
    for number in range(2):
        (folder / str(number)).mkdir()
        machines.append(
            start(
                "run", "env", "-C", str(folder / str(number)),
                sys.executable, "-m", "accelerate.commands.launch",
                "--config_file", str(SCRIPTS.parent / "configs" / "accelerate" / "gpus_2x8.yaml"),
                "--num_processes", "2", "--machine_rank", str(number),
                "--main_process_ip", "127.0.0.1", "--main_process_port", port,
            )
        )  # fmt: skip
    told = [finish(machine) for machine in machines]
    return folder / "0" / "run", folder / "1", told


@pytest.mark.slow
def test_of_two_machines_the_first_alone_writes_and_tells(unbroken):
    out, second, told = unbroken
    assert (out / "summary.json").exists()
    assert not [path for path in second.rglob("*") if path.is_file()]
    assert "after 16 steps" in told[0]
    assert "after 16 steps" not in told[1]


@pytest.mark.slow
@pytest.mark.ranks
def test_a_killed_rank_is_restarted_with_the_others_and_they_resume(unbroken, tmp_path):
    """One launcher, two ranks: to the bits of the two machines."""
    out = tmp_path / "run"
    launcher = start(out, *OWN_STORE, *TORCHRUN, "--max_restarts", "1")
    kill_in_second_epoch(out, find_rank(launcher, 1))
    resumed_step(finish(launcher))
    assert_same_weights(out, unbroken[0])


def start_machines(out):
    port = free_port()
    return [
        start(out, *RUN, "--nnodes", "2", "--node_rank", str(number), "--nproc_per_node", "1",
              "--master_addr", "127.0.0.1", "--master_port", port)
        for number in range(2)
    ]  # fmt: skip


@pytest.mark.slow
def test_a_machine_that_dies_ends_the_other_and_both_resume(unbroken, tmp_path):
    out = tmp_path / "run"
    first, second = start_machines(out)
    lost = find_rank(second, 1)
    kill_in_second_epoch(out, second, lost)  # the launcher before its rank, so it cannot tell
    _, errors = first.communicate(timeout=100)
    assert first.returncode == 1
    assert f"rank 1 (process {lost.pid} on " in errors
    second.communicate()
    told = [finish(machine) for machine in start_machines(out)]
    resumed_step(told[0])
    assert_same_weights(out, unbroken[0])


@pytest.mark.slow
def test_a_machine_that_leaves_an_elastic_job_is_done_without(unbroken, tmp_path):
    out, port = tmp_path / "run", free_port()
    first, second = (
        start(out, *OWN_STORE, *RUN, "--nnodes", "1:2", "--nproc_per_node", "1",
              "--max_restarts", "1", "--rdzv_backend", "c10d", "--rdzv_id", "job",
              "--rdzv_endpoint", f"127.0.0.1:{port}", "--rdzv_conf",
              f"is_host={host},keep_alive_interval=1,keep_alive_max_attempt=3,last_call_timeout=10")
        for host in (1, 0)
    )  # fmt: skip
    try:
        wait_for_records(out, 1)
        leaving = find_rank(second, 0, 1)
        assert leaving.environ()["WORLD_SIZE"] == "2"
        kill_in_second_epoch(out, second, leaving)
        first_alone = resumed_step(finish(first))
    finally:
        first.kill()
        second.communicate()
    ours, theirs = ([r["loss"] for r in records(run)] for run in (out, unbroken[0]))
    assert ours[first_alone] == pytest.approx(theirs[first_alone], rel=1e-5)
    assert ours[-1] == pytest.approx(theirs[-1], rel=2e-2)
    ours, theirs = flat_weights(out), flat_weights(unbroken[0])
    moved = (theirs - flat_weights(unbroken[0], first_alone)).norm()
    assert 0 < (ours - theirs).norm() < 0.5 * moved  # rounding, which grows from step to step
