"""Records of a training: metrics.jsonl, trackers and a progress bar."""

import json
import math
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from accelerate import Accelerator
from tqdm.auto import tqdm

from sslortho.train.trackers import begin_trackers

Record = dict[str, float | int | None]


def jsonable(value: Any) -> Any:
    """A value as JSON has it: null for a number that is not finite, since JSON has no NaN.

    Also inside mappings, lists and tuples.
    """
    if isinstance(value, Mapping):
        return {name: jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_metrics(path: Path, names: Collection[str] | None = None) -> list[Record]:
    """Read the records of a metrics.jsonl; a last line that a crash truncated is left out.

    Args:
        path: the file; without one there are no records.
        names: fields to keep beside "step" and "epoch"; None for all. Saves memory for long runs.
    """
    records: list[Record] = []
    if not path.exists():
        return records
    kept = None if names is None else dict.fromkeys(("step", "epoch", *names))
    with path.open(encoding="utf-8", errors="replace") as file:  # a power cut leaves any bytes
        for line in file:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                break
            if kept is not None:  # one text for a name in all records, not one in each
                record = {name: record[name] for name in kept if name in record}
            records.append(record)
    return records


def lines_from_the_end(file: IO[bytes], block: int = 1 << 16) -> Iterator[tuple[int, bytes]]:
    """Lines of a file, last one first, each with the offset of its first byte."""
    place = file.seek(0, os.SEEK_END)
    beginning = b""  # of the line whose end is read
    while place:
        size = min(block, place)
        place -= size
        file.seek(place)
        lines = (file.read(size) + beginning).splitlines(keepends=True)
        beginning, whole = lines[0], lines[1:]
        after = place + len(beginning) + sum(map(len, whole))
        for line in reversed(whole):
            after -= len(line)
            yield after, line
    if beginning:
        yield 0, beginning


def _step_in(line: bytes) -> float:
    """Step of a record; inf if the line is malformed, as a power cut may leave it."""
    try:
        return json.loads(line)["step"] or 0
    except (ValueError, TypeError, KeyError):
        return math.inf


def forget_records(path: Path, step: int, length: int | None = None) -> None:
    """Truncate a metrics.jsonl after its last record of at most this step; for step 0 completely.

    Steps never decrease from record to record, so the file is read from its end, only as far as needed.

    Args:
        path: the file.
        step: of the checkpoint that training resumes from.
        length: of the file in bytes when that was saved. What is behind it is forgotten too: the
            evaluation of this very step is repeated if it came after the checkpoint.
    """
    end = 0
    with path.open("rb+") as file:
        if length is not None and step > 0:
            file.truncate(min(length, file.seek(0, os.SEEK_END)))
        for place, line in lines_from_the_end(file) if step > 0 else ():
            if line.endswith(b"\n") and _step_in(line) <= step:
                end = place + len(line)
                break
        file.truncate(end)


def records_from(path: Path, step: int) -> list[Record]:
    """Records of a metrics.jsonl from this step on, in their order."""
    if step <= 0:
        return read_metrics(path)
    found: list[Record] = []
    with path.open("rb") as file:
        for _, line in lines_from_the_end(file):
            if _step_in(line) < step:
                break
            found.append(json.loads(line))
    return found[::-1]


class Reporter:
    """Writes the records of a run; silent on all ranks but the first.

    Args:
        folder: of the run; created if needed.
        accelerator: its trackers receive every record too.
        total_steps: length of the progress bar.
        options: of the run, for the trackers, which begin in `resume`. Default: they have begun.
    """

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        total_steps: int,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = folder / "metrics.jsonl"
        self.accelerator = accelerator
        self.main = accelerator.is_main_process
        self.options = options
        folder.mkdir(parents=True, exist_ok=True)
        self.bar = tqdm(total=total_steps, unit="step", disable=not self.main, dynamic_ncols=True)

    def resume(self, step: int, place: int | None = None, length: int | None = None) -> None:
        """Remove records after `step`, which will be repeated, and begin the trackers. Every rank must call.

        Args:
            step: steps taken.
            place: of the bar; default the same. They differ once the data have changed.
            length: `length` when the checkpoint was saved; None where it does not say.
        """
        self.bar.reset()  # its rate is that of this session's steps, from now on
        self.bar.initial = self.bar.n = self.bar.last_print_n = step if place is None else place
        self.bar.refresh()
        if self.main and self.path.exists():
            forget_records(self.path, step, length)  # at 0 the untrained evaluation is logged again
        if self.options is not None:
            self._begin_trackers(self.options, step)

    def _begin_trackers(self, options: Mapping[str, Any], step: int) -> None:
        """Begin the trackers, and hand them the records that they lack."""
        missing = begin_trackers(self.accelerator, options, step)
        for tracker in self.accelerator.trackers:
            if tracker.name in missing and self.path.exists():
                for record in records_from(self.path, missing[tracker.name]):
                    values = {k: math.nan if v is None else v for k, v in record.items()}
                    number = values.pop("step")
                    values.pop("epoch", None)
                    tracker.log(values, step=int(number))

    @property
    def length(self) -> int:
        """Length of metrics.jsonl in bytes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def log(self, step: int, epoch: int, values: dict[str, float]) -> None:
        """Append one record and pass it to the trackers.

        Raises OSError, with the file's name, if it cannot be written.
        """
        if not self.main:
            return
        record = {"step": step, "epoch": epoch, **{k: jsonable(v) for k, v in values.items()}}
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:  # a full disk's has no name in it
            reason = error.strerror or error
            raise OSError(f"{self.path} could not be written ({reason})") from error
        self.accelerator.log(values, step=step)

    def sync(self) -> None:
        """Flush all records to the disk."""
        if self.main and self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    def progress(self, place: int, shown: dict[str, float] | None = None) -> None:
        """Move the bar to a place, and show values beside it."""
        self.bar.update(place - self.bar.n)
        if shown:
            self.bar.set_postfix({name: f"{value:.4g}" for name, value in shown.items()})

    def say(self, text: str) -> None:
        """Print a line above the bar, on the first rank."""
        if self.main:
            tqdm.write(text)

    def close(self) -> None:
        """Finish the bar."""
        self.bar.close()
