"""This process: its threads, its device, its ranks."""

from pathlib import Path

from accelerate import Accelerator

from sslortho.recipes.options import DataOptions
from sslortho.train.launch import create_accelerator, make_deterministic, set_threads


def join_ranks(
    config: DataOptions, folder: Path, mixed_precision: str = "no", trackers: str = "none"
) -> Accelerator:
    """Set the process up and find the others; see `train.launch`.

    Args:
        config: its threads, deterministic and rank_timeout.
        folder: of the run.
        mixed_precision: "no", "fp16" or "bf16".
        trackers: comma-separated, or "none".
    """
    set_threads(config.threads)
    if config.deterministic:
        make_deterministic()
    return create_accelerator(mixed_precision, trackers, folder, config.rank_timeout)
