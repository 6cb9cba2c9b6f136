"""Scripts as processes of their own, for the tests that start, break and compare runs."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

SCRIPTS = Path(__file__).parent.parent / "scripts"
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
    """Of a run's metrics.jsonl."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def wait_for_records(out, count):
    """Until a run has written so many, or for 100 seconds."""
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        if (out / "metrics.jsonl").exists() and len(records(out)) >= count:
            break
        time.sleep(0.005)
