"""Nothing grows with the length of a run but its records."""

import sys

import pytest
from helpers.long_run import train_alone

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

STEPS = 2000
MAY_GROW = 3 << 20
"""Bytes: what allocators keep back differs by some pages. A tensor of 8 KB a step would be 12 MB."""


def growth(values):
    """From after a quarter of the run to its end."""
    start = len(values) // 4
    return max(values[-3:]) - max(values[start : start + 3])


@pytest.mark.slow
def test_memory_files_and_disk_stay_as_they_are(tmp_path):
    watched = train_alone(tmp_path, STEPS, leak=False)
    assert watched.steps == STEPS
    assert growth(watched.memory) < MAY_GROW
    assert growth(watched.files) <= 2  # one is open while it is written
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == STEPS


@pytest.mark.slow
def test_a_leak_would_be_seen(tmp_path):
    """In less steps, and by as much less memory, than above."""
    watched = train_alone(tmp_path, STEPS // 2, leak=True)
    assert growth(watched.memory) > MAY_GROW
    assert growth(watched.files) > 100
