"""Trackers of Accelerate, begun so that they agree with metrics.jsonl, also after a crash."""

import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from sslortho.atomic import atomic_file

PROJECT = "sslortho"
"""Name of W&B's project, and of TensorBoard's folder in logs/."""

WANDB_ID = "wandb_id"
"""File in logs/ with the id of the run at W&B."""


def describe_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options as trackers take them: TensorBoard knows numbers and text alone."""
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in values.items()
        if value is not None
    }


def _wandb_id(logs: Path, step: int) -> str:
    """Id of the run at W&B: a new one at step 0, then the same, kept in logs/."""
    path = logs / WANDB_ID
    if step > 0 and path.exists():
        return path.read_text().strip()
    chosen = uuid.uuid4().hex[:16]
    logs.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(f"{chosen}\n".encode())
    return chosen


def _wait_for_a_later_name(files: list[Path]) -> None:
    """Wait, for up to a second, until TensorBoard's next file has a later name than these.

    TensorBoard reads a run's files by name, which begins with the whole second of the beginning.
    """
    newest = max(int(path.name.split(".")[3]) for path in files)
    if 0 < newest + 1 - time.time() <= 1:
        time.sleep(newest + 1 - time.time())


def begin_trackers(
    accelerator: Accelerator, options: Mapping[str, Any], step: int
) -> dict[str, int]:
    """Begin the trackers of a run that goes on after `step`. Every rank must call.

    TensorBoard hides what earlier sessions wrote from this step on (`purge_step`). W&B goes on with the
    same run, by its id; it takes no step twice, so steps that are repeated keep their first numbers there.
    Other trackers begin a run of their own in each session.

    Args:
        accelerator: its trackers are begun; TensorBoard's files and W&B's id are in its logging_dir.
        options: of the run, by name.
        step: optimizer steps taken; 0 for a beginning.

    Returns the name of each tracker that lacks records to the first step that it lacks.
    """
    names = {str(getattr(tracker, "value", tracker)) for tracker in accelerator.log_with}
    arguments: dict[str, Any] = {}
    missing: dict[str, int] = {}
    if accelerator.is_main_process and accelerator.logging_dir is not None:
        logs = Path(accelerator.logging_dir)
        if "tensorboard" in names:
            written = sorted((logs / PROJECT).glob("events.out.tfevents.*"))
            if written:
                _wait_for_a_later_name(written)
            missing["tensorboard"] = step if written else 0
            arguments["tensorboard"] = {"purge_step": step} if written else {}
        if "wandb" in names and "WANDB_RUN_ID" not in os.environ:
            if not (logs / WANDB_ID).exists():
                missing["wandb"] = 0
            arguments["wandb"] = {"id": _wandb_id(logs, step), "resume": "allow"}
    accelerator.init_trackers(PROJECT, describe_options(options), init_kwargs=arguments)
    return missing
