"""What a run tells: metrics.jsonl, trackers, a progress bar, pictures, summary.json."""

import json
import math
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from sslortho.evaluate.figures import new_figure, save_figure
from sslortho.train.checkpoint import write_atomically

Record = dict[str, float | int | None]


def _jsonable(value: Any) -> Any:
    # JSON has no NaN; readers of every language take null
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_metrics(path: Path, names: Collection[str] | None = None) -> list[Record]:
    """The records of a metrics.jsonl; a last line that a crash cut short is left out.

    Args:
        path: the file; without one there are no records.
        names: fields to keep beside "step" and "epoch"; None for all. Of a long run this is what fits into
            memory.
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
    """The lines of a file, last one first, each with the place of its first byte."""
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
    """Of a record; inf of a line that is none, as a power cut may leave it."""
    try:
        return json.loads(line)["step"] or 0
    except (ValueError, TypeError, KeyError):
        return math.inf


def forget_records(path: Path, step: int) -> None:
    """Cut a metrics.jsonl off behind the last record of at most this step; of step 0 all go.

    Steps do not fall from record to record, so it is read from its end, and only as far.
    """
    end = 0
    with path.open("rb+") as file:
        for place, line in lines_from_the_end(file) if step > 0 else ():
            if line.endswith(b"\n") and _step_in(line) <= step:
                end = place + len(line)
                break
        file.truncate(end)


class Reporter:
    """Writes a run's records; silent on all ranks but the first.

    Args:
        folder: the run's folder; made if need be.
        accelerator: whose trackers get every record too.
        total_steps: length of the progress bar.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, total_steps: int) -> None:
        self.path = folder / "metrics.jsonl"
        self.accelerator = accelerator
        self.main = accelerator.is_main_process
        folder.mkdir(parents=True, exist_ok=True)
        self.bar = tqdm(total=total_steps, unit="step", disable=not self.main, dynamic_ncols=True)

    def resume(self, step: int) -> None:
        """Forget records after `step`: those steps will be taken again."""
        self.bar.update(step - self.bar.n)
        if self.main and self.path.exists():
            forget_records(self.path, step)  # at step 0 the untrained evaluation is logged again

    def log(self, step: int, epoch: int, values: dict[str, float]) -> None:
        """Append one record and pass it to the trackers.

        Raises OSError, with the file's name, if it cannot be written.
        """
        if not self.main:
            return
        record = {"step": step, "epoch": epoch, **{k: _jsonable(v) for k, v in values.items()}}
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:  # a full disk's has no name in it
            reason = error.strerror or error
            raise OSError(f"{self.path} could not be written ({reason})") from error
        self.accelerator.log(values, step=step)

    def sync(self) -> None:
        """Have all records on the disk, and not only on their way to it."""
        if self.main and self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    def progress(self, step: int, shown: dict[str, float] | None = None) -> None:
        """Move the bar to a step, and show values beside it."""
        self.bar.update(step - self.bar.n)
        if shown:
            self.bar.set_postfix({name: f"{value:.4g}" for name, value in shown.items()})

    def say(self, text: str) -> None:
        """Print a line above the bar, on the first rank."""
        if self.main:
            tqdm.write(text)

    def close(self) -> None:
        """Finish the bar."""
        self.bar.close()


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Write summary.json."""
    text = json.dumps({name: _jsonable(value) for name, value in summary.items()}, indent=2)
    write_atomically(path, lambda file: file.write((text + "\n").encode()))


def draw_views(path: Path, views: tuple[Tensor, ...], columns: int = 8) -> None:
    """A picture of augmented views: each row one view, each column one image.

    Rows are as high as their view is in proportion to the largest.

    Args:
        views: tensors (batch, 3, height, width), of a size of its own each, normalised as for
            training; each view is stretched to its own range of values for showing.
        columns: images shown.
    """
    columns = min(columns, len(views[0]))
    largest = max(view.shape[2] for view in views)
    heights = [view.shape[2] / largest for view in views]
    figure = new_figure(1.2 * columns + 0.6, 1.3 * sum(heights))
    axes = figure.subplots(len(views), columns, squeeze=False, height_ratios=heights)
    for row, view in enumerate(views):
        shown = view[:columns].float().cpu()
        low, high = shown.amin(dim=(0, 2, 3)), shown.amax(dim=(0, 2, 3))
        shown = (shown - low.view(1, -1, 1, 1)) / (high - low).clamp_min(1e-6).view(1, -1, 1, 1)
        for axis, image in zip(axes[row], shown, strict=True):
            axis.imshow(image.permute(1, 2, 0).numpy())
            axis.set_xticks([])
            axis.set_yticks([])
        axes[row][0].set_ylabel(f"view {row + 1}", rotation=0, ha="right", va="center")
    save_figure(figure, path)


def _series(records: list[Record], name: str) -> tuple[list[float], list[float]]:
    points = [(r["step"], r[name]) for r in records if r.get(name) is not None]
    points = points[:: max(1, len(points) // MOST_POINTS)]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return list(steps), list(values)  # pyright: ignore[reportReturnType]


MOST_POINTS = 2000
"""Of a curve, about: more than a picture has pixels."""

ACCURACIES = {
    "val_top1": "held-out top-1 (%)",
    "top1": "test top-1 (%)",
    "knn_top1": "kNN top-1 (%)",
}
"""What is drawn beside the loss, the first that there is."""


def draw_curves(path: Path, runs: dict[str, list[Record]], title: str = "") -> None:
    """Loss and accuracy against steps, a line for each run.

    The accuracy is that of held-out images if there are some, else of test images, or of pretraining
    kNN's.

    Args:
        path: the picture.
        runs: label to records of a metrics.jsonl.
        title: above the picture.
    """
    known = {name for records in runs.values() for record in records for name in record}
    accuracy = next((name for name in ACCURACIES if name in known), "knn_top1")
    panels = {"loss": "loss", accuracy: ACCURACIES[accuracy]}
    figure = new_figure(10, 4)
    for axis, (name, label) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for run, records in runs.items():
            steps, values = _series(records, name)
            axis.plot(steps, values, label=run, marker="o" if len(steps) < 30 else None)
        axis.set_xlabel("step")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    if any(_series(records, "loss")[0] for records in runs.values()):
        figure.axes[0].set_yscale("log")
        for choose in (figure.axes[0].yaxis.set_major_formatter,
                       figure.axes[0].yaxis.set_minor_formatter):  # fmt: skip
            choose("{x:g}")  # no powers of ten
    if len(runs) > 1:
        figure.axes[0].legend()
    figure.suptitle(title)
    save_figure(figure, path)
