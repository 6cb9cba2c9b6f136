"""Scripts as processes of their own, for the tests that start, break and compare runs, and called in this
one, which saves them 5 seconds of imports."""

import contextlib
import functools
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

from accelerate.state import AcceleratorState

from sslortho import cli

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.append(str(SCRIPTS))  # where scripts find the folders beside them
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
TORCHRUN = (
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
)  # fmt: skip


def start_script(name, *arguments, launcher=(sys.executable,)):
    """A script of the project with these arguments."""
    return subprocess.Popen(
        [*launcher, str(SCRIPTS / name), *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Wait for it; what it printed."""
    out, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors[-3000:]
    return out


def records(out):
    """Records of a run's metrics.jsonl."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def wait_for_records(out, count):
    """Until a run has written so many, or for 100 seconds."""
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        if (out / "metrics.jsonl").exists() and len(records(out)) >= count:
            break
        time.sleep(0.005)


@functools.cache
def load_script(name):
    """The module of a script, or of a benchmark."""
    path = SCRIPTS / f"{name}.py"
    path = path if path.exists() else SCRIPTS.parent / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"script_{name}", path)
    module = sys.modules[f"script_{name}"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call_script(name, *arguments):
    """A script's main in this process; as subprocess.run, what it printed and its exit code."""
    return _call(load_script(name).main, f"scripts/{name}.py", arguments)


def call_command(name, *arguments):
    """`sslortho NAME ...` in this process, likewise."""
    return _call(cli.main, "sslortho", (name, *arguments))


def _call(main, program, arguments):
    code, out, errors = 0, io.StringIO(), io.StringIO()
    AcceleratorState._reset_state(reset_partial_state=True)
    given = [program, *map(str, arguments)]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with (
        mock.patch.object(sys, "argv", given),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            AcceleratorState._reset_state(reset_partial_state=True)
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return subprocess.CompletedProcess(given, code, out.getvalue(), errors.getvalue())
