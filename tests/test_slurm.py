"""The SLURM script between stand-ins for SLURM and Accelerate, and what Accelerate makes of it."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "configs" / "slurm" / "pretrain_2x8.sbatch"

STAND_INS = {
    # a task for each machine, with all that it starts in a session of its own
    "srun": """
        command = sys.argv[1:]
        (log / "srun").write_text("\\n".join(a for a in command if a.startswith("--")))
        while command[0].startswith("--"):
            command.pop(0)
        tasks = [
            subprocess.Popen(command, env={**os.environ, "SLURM_NODEID": str(i)},
                             start_new_session=True)
            for i in range(int(os.environ["SLURM_JOB_NUM_NODES"]))
        ]
        (log / "step").write_text(" ".join(str(task.pid) for task in tasks))
        sys.exit(max(task.wait() % 256 for task in tasks))
    """,
    # a signal goes to every process of the step, not to the batch script
    "scancel": """
        name, job = sys.argv[1].removeprefix("--signal="), sys.argv[2]
        assert (name, job) == ("USR1", "7123456"), sys.argv
        for task in (log / "step").read_text().split():
            os.killpg(int(task), signal.SIGUSR1)
    """,
    "scontrol": """
        if sys.argv[1:] == ["show", "hostnames", "gpu[3,5]"]:
            print("gpu3\\ngpu5")
        else:
            with (log / "scontrol").open("a") as file:
                print(*sys.argv[1:], file=file)
            sys.exit(int(os.environ.get("REQUEUE_FAILS", "0")))
    """,
    # as the real one it dies of SIGUSR1 unless it was told to ignore it
    "accelerate": """
        node = os.environ["SLURM_NODEID"]
        (log / f"accelerate-{node}").write_text("\\n".join(sys.argv[1:]))
        code = subprocess.call([sys.executable, "-IS", str(Path(sys.argv[0]).parent / "training")])
        (log / f"ended-{node}").write_text(str(code))
        sys.exit(code)
    """,
    "training": """
        node, mood = os.environ["SLURM_NODEID"], os.environ["MOOD"]
        if (log / f"checkpoint-{node}").exists():
            (log / f"resumed-{node}").touch()
            sys.exit(0)
        if mood == "fails":
            sys.exit(3 if node == "1" else 0)
        heard = []
        if mood != "evaluates":
            signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
        (log / f"ready-{node}").touch()
        while not heard:
            time.sleep(0.01)
        if mood == "is over":
            sys.exit(0)
        (log / f"checkpoint-{node}").touch()
        sys.exit(138)
    """,
}


@pytest.fixture
def job(tmp_path):
    """Start the script as SLURM does; what it left is in the folder `log`."""
    programs, log = tmp_path / "programs", tmp_path / "log"
    programs.mkdir()
    log.mkdir()
    for name, body in STAND_INS.items():
        lines = [line[8:] for line in body.strip("\n").splitlines()]
        head = [
            f"#!{sys.executable} -IS", "import os, signal, subprocess, sys, time",
            "from pathlib import Path", f"log = Path({str(log)!r})",
        ]  # fmt: skip
        (programs / name).write_text("\n".join(head + lines))
        (programs / name).chmod(0o755)
    started = []

    def start(mood, *arguments, **environment):
        slurm = {
            "SLURM_JOB_ID": "7123456", "SLURM_JOB_NODELIST": "gpu[3,5]", "SLURM_JOB_NUM_NODES": "2",
            "SLURM_GPUS_ON_NODE": "8",
        }  # fmt: skip
        path = f"{programs}:{os.environ['PATH']}"
        started.append(
            subprocess.Popen(
                ["bash", str(SCRIPT), *arguments],
                env={**os.environ, **slurm, "PATH": path, "MOOD": mood, **environment},
            )
        )
        return started[-1], log

    yield start
    for process in started:
        process.kill()
        process.wait()
    for task in (log / "step").read_text().split():
        with suppress(ProcessLookupError):
            os.killpg(int(task), signal.SIGKILL)


def tell_that_time_is_up(process, log):
    """As `--signal=B:USR1@120` does, once both machines train."""
    deadline = time.monotonic() + 60
    while len(list(log.glob("ready-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)


def requeued(log):
    return (log / "scontrol").read_text().splitlines() if (log / "scontrol").exists() else []


@pytest.mark.slow
def test_time_up_stops_training_requeues_once_and_the_second_start_resumes(job):
    process, log = job("trains", "--out", "runs/x")
    tell_that_time_is_up(process, log)
    assert process.wait(30) == 0
    assert requeued(log) == ["requeue 7123456"]
    for node in "01":
        assert (log / f"checkpoint-{node}").exists()
        assert (log / f"ended-{node}").read_text() == "138"  # the launcher outlived the signal
    before = (log / "accelerate-1").read_text()
    again, _ = job("trains", "--out", "runs/x")
    assert again.wait(30) == 0
    assert requeued(log) == ["requeue 7123456"]
    assert (log / "resumed-0").exists()
    assert (log / "resumed-1").exists()
    assert (log / "accelerate-1").read_text() == before


def test_a_failure_is_passed_on_and_nothing_is_requeued(job):
    process, log = job("fails")
    assert process.wait(30) == 3
    assert requeued(log) == []
    assert "--wait=60" in (log / "srun").read_text().splitlines()  # machines that still wait end


@pytest.mark.slow
def test_training_that_ends_as_the_time_does_is_not_requeued(job):
    process, log = job("is over")
    tell_that_time_is_up(process, log)
    assert process.wait(30) == 0
    assert requeued(log) == []


@pytest.mark.slow
def test_what_does_not_hear_the_signal_is_requeued_before_it_is_killed(job):
    process, log = job("evaluates", GRACE="1")
    tell_that_time_is_up(process, log)
    assert process.wait(30) == 0
    assert requeued(log) == ["requeue 7123456"]
    assert not list(log.glob("ended-*"))
    text = SCRIPT.read_text()
    (grace,) = re.findall(r"GRACE:-(\d+)", text)
    (warning,) = re.findall(r"--signal=B:USR1@(\d+)", text)
    assert int(grace) + 20 <= int(warning)


@pytest.mark.slow
def test_a_requeue_that_is_refused_is_a_failure(job):
    process, log = job("trains", REQUEUE_FAILS="1")
    tell_that_time_is_up(process, log)
    assert process.wait(30) == 1
    assert requeued(log) == ["requeue 7123456"]


@pytest.mark.parametrize(("machines", "gpus"), [(2, 8), (1, 4)])
def test_each_machine_gets_its_rank_and_all_the_same_meeting_place(
    job, monkeypatch, machines, gpus
):
    process, log = job(
        "fails", "--config", "configs/a b.yaml", "--out", "runs/x",
        SLURM_JOB_NUM_NODES=str(machines), SLURM_GPUS_ON_NODE=str(gpus),
    )  # fmt: skip
    process.wait(30)
    monkeypatch.chdir(ROOT)
    for node in range(machines):
        arguments = (log / f"accelerate-{node}").read_text().splitlines()
        assert arguments[0] == "launch"
        parsed = launch_command_parser().parse_args(arguments[1:])
        args, _, _ = _validate_launch_command(parsed)
        prepare_multi_gpu_env(args)  # what torchrun is told
        assert args.training_script == "scripts/pretrain.py"
        assert args.training_script_args == ["--config", "configs/a b.yaml", "--out", "runs/x"]
        assert args.multi_gpu
        assert args.nproc_per_node == str(gpus)
        if machines > 1:
            assert (args.nnodes, args.node_rank) == ("2", node)
            assert (args.rdzv_endpoint, args.rdzv_backend) == ("gpu3:23456", "static")
        else:
            assert args.master_port == "23456"
    assert not (log / f"accelerate-{machines}").exists()


@pytest.mark.parametrize(
    ("name", "multi_gpu", "processes"),
    [("cpu", False, 1), ("gpu_1", False, 1), ("gpus_8", True, 8), ("gpus_2x8", True, 16)],
)
def test_accelerate_reads_its_files_as_they_are_meant(name, multi_gpu, processes):
    path = str(ROOT / "configs" / "accelerate" / f"{name}.yaml")
    parsed = launch_command_parser().parse_args(["--config_file", path, "scripts/pretrain.py"])
    args, _, _ = _validate_launch_command(parsed)
    assert (args.multi_gpu, args.num_processes) == (multi_gpu, processes)
