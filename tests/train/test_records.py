import io
import json
import random
import shutil
from pathlib import Path

import pytest
from accelerate import Accelerator

from sslortho.train.progress import Clock
from sslortho.train.records import (
    Reporter,
    forget_records,
    lines_from_the_end,
    read_metrics,
)


@pytest.fixture
def reporter(tmp_path):
    reporter = Reporter(tmp_path, Accelerator(cpu=True), total_steps=10)
    yield reporter
    reporter.close()


def test_records_come_back_and_what_is_not_finite_is_null(tmp_path, reporter):
    reporter.log(1, 0, {"loss": 2.5})
    reporter.log(2, 0, {"loss": float("nan")})
    expected = [{"step": 1, "epoch": 0, "loss": 2.5}, {"step": 2, "epoch": 0, "loss": None}]
    assert read_metrics(tmp_path / "metrics.jsonl") == expected


def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for end in (b'{"step": 2, "lo', b"\0\0\0", b"\xff\xfe\n"):
        path.write_bytes(b'{"step": 1, "loss": 2}\n' + end)
        assert read_metrics(path) == [{"step": 1, "loss": 2}]


def test_resuming_forgets_the_steps_that_will_be_taken_again(tmp_path, reporter):
    for step in range(5):
        reporter.log(step, 0, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5')
    reporter.resume(3)
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3]


def test_starting_over_forgets_everything(tmp_path, reporter):
    reporter.log(0, 0, {"knn_top1": 1.0})
    reporter.resume(0)
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def literal_forgetting(content, step):
    """Line by line from the beginning, as it is defined."""
    kept = []
    for line in content.splitlines(keepends=True):
        try:
            record = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or step == 0 or record["step"] > step:
            break
        kept.append(line)
    return b"".join(kept)


TAILS = [b"", b'{"step": 4', b"{", b'{"ste\n', b"\0\0\0\0\n", b"\xff\xfe\n", b"\n\n{"]
"""Ends of a file that a crash or a power cut may leave."""


@pytest.mark.parametrize("seed", range(20))
def test_forgetting_keeps_what_a_reading_from_the_beginning_keeps(tmp_path, seed):
    draws = random.Random(seed)
    steps = sorted(draws.choices(range(1, 40), k=draws.randint(0, 40)))
    lines = [json.dumps({"step": s, "x": "y" * draws.randint(0, 200)}) + "\n" for s in steps]
    path = tmp_path / "metrics.jsonl"
    for tail in TAILS:
        content = "".join(lines).encode() + tail
        for step in (0, draws.randint(1, 40), 100):
            path.write_bytes(content)
            forget_records(path, step)
            assert path.read_bytes() == literal_forgetting(content, step)


@pytest.mark.parametrize("block", [1, 2, 7, 1000])
def test_lines_from_the_end_are_those_from_the_beginning(block):
    for text in (
        b"",
        b"\n",
        b"a",
        b"a\n",
        b"\n\nab\nc\n",
        b"abc\ndefg\n\nhi",
        b"x" * 20 + b"\ny\n",
    ):
        places, lines = [0], text.splitlines(keepends=True)
        for line in lines:
            places.append(places[-1] + len(line))
        found = list(lines_from_the_end(io.BytesIO(text), block))
        assert found == list(zip(places, lines, strict=False))[::-1]


def test_a_million_records_are_not_read_to_forget_the_last(tmp_path):
    class Counting(io.BytesIO):
        read_bytes = 0

        def read(self, size=-1):
            Counting.read_bytes += size
            return super().read(size)

    lines = [b'{"step": %d, "loss": 1.0}\n' % step for step in range(1, 1_000_001)]
    content = b"".join(lines)
    for _, line in lines_from_the_end(Counting(content)):
        if json.loads(line)["step"] <= 999_000:
            break
    assert line == lines[999_000 - 1]
    assert Counting.read_bytes < 200_000 < len(content)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, reporter):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"metrics\.jsonl could not be written \(No space left"):
        reporter.log(1, 0, {"loss": 1.0})


def test_a_folder_that_has_vanished_is_an_error_and_not_made_again(tmp_path):
    folder = tmp_path / "run"
    reporter = Reporter(folder, Accelerator(cpu=True), total_steps=10)
    reporter.log(1, 0, {"loss": 1.0})
    shutil.rmtree(folder)
    with pytest.raises(OSError, match=r"run/metrics\.jsonl could not be written \(No such file"):
        reporter.log(2, 0, {"loss": 1.0})
    reporter.close()
    assert not folder.exists()


def test_only_the_fields_asked_for_are_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "epoch": 0, "loss": 2.0, "other": 3}\n{"step": 2, "kn')
    assert read_metrics(path, {"loss"}) == [{"step": 1, "epoch": 0, "loss": 2.0}]
    assert read_metrics(tmp_path / "nothing") == []


def test_a_name_is_one_object_in_all_records(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "epoch": 0, "loss": 2.0}\n' * 9)
    names = {id(name) for record in read_metrics(path, ["loss"]) for name in record}
    assert len(names) == 3


@pytest.mark.parametrize(
    ("total", "step", "speed"), [(1000, 900, 20.0), (10, 0, 2.0), (50, 49, 0.5)]
)
def test_the_bar_shows_the_speed_of_this_session(tmp_path, monkeypatch, total, step, speed):
    """A clock of our own: steps are taken at `speed` a second."""
    reporter = Reporter(tmp_path, Accelerator(cpu=True), total)
    now = reporter.bar._time()
    monkeypatch.setattr(reporter.bar, "_time", lambda: now)
    now += 5  # until the checkpoint is read
    reporter.resume(step)
    for each in range(step + 1, min(step + 21, total)):
        now += 1 / speed
        reporter.progress(each)
    shown = reporter.bar.format_dict
    taken = shown["n"] - step
    assert (shown["n"], shown["initial"], shown["total"]) == (
        min(step + 20, total - 1),
        step,
        total,
    )
    if taken:
        assert taken / shown["elapsed"] == pytest.approx(speed)
        assert shown["rate"] is None or shown["rate"] == pytest.approx(speed)
        assert f"{speed:.2f}step/s" in str(reporter.bar) or f"{1 / speed:.2f}s/step" in str(
            reporter.bar
        )
    reporter.close()


def test_a_clock_counts_the_images_of_its_own_stretch(monkeypatch):
    """A window that a checkpoint brought from another session has images that took no time here."""
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    clock = Clock(_start=0.0)
    clock.start()
    for images in (8, 8, 4):
        clock.add(images)
        now += 2.0
    assert clock.stop() == pytest.approx(20 / 6)
    now += 10  # an evaluation
    clock.start()
    clock.add(8)
    now += 1.0
    assert clock.stop() == pytest.approx(8.0)
    assert clock.rate() == pytest.approx(28 / 7)
