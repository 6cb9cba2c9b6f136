"""Verdicts on the runs: tables in Markdown, and pictures of a good run beside a bad one."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from sslortho.evaluate import Verdict, diagnose
from sslortho.evaluate.verdict.findings import (
    DATA,
    DIMENSIONAL,
    DIVERGING,
    HEALTHY,
    NOT_BETTER,
    POINT,
    TOO_HIGH,
    TOO_LOW,
    UNDECIDED,
    VIEWS,
    WORSE,
)
from sslortho.runs.curves import draw_curves
from sslortho.runs.markdown import table_lines

Run = Mapping[str, Any]
"""Line of the file of runs."""

FAILED = (POINT, DIMENSIONAL, DIVERGING, NOT_BETTER)
"""Names that a run with a part taken out may be given."""

RIGHT: dict[str, tuple[str, ...]] = {
    "healthy": (HEALTHY,),
    "healthy, AdamW": (HEALTHY,),
    "rate x 100": (TOO_HIGH, DIVERGING),
    "rate x 100, AdamW": (TOO_HIGH, DIVERGING),
    "rate / 1000": (TOO_LOW,),
    "augmentations off": (VIEWS,),
    "one image repeated": (DATA,),
    "eight images repeated": (DATA,),
    "nearly constant images": (DATA,),
}
"""Kind of run to the verdicts that are right; of others FAILED."""


SHOWN: dict[str, str] = {
    HEALTHY: "nothing (healthy)",
    "healthy, AdamW": "nothing; AdamW, its rate not tuned",
}
"""Kind of run to what a table calls it, if that differs."""


def judge(run: Run, labels: bool) -> Verdict:
    """Verdict on a run of the file, with or without its labels."""
    records, summary = run["records"], run["summary"]
    if not labels:
        records = [{n: v for n, v in r.items() if "knn" not in n} for r in records]
        summary = {n: v for n, v in summary.items() if "knn" not in n}
    return diagnose(records, summary, failure=run["error"])


def _accuracy(run: Run) -> float | None:
    return run["summary"].get("knn_top1")


def _mean_change(runs: Sequence[Run], all_runs: Sequence[Run], data: str) -> str:
    """Mean difference of kNN from the healthy runs of the same method, data, backbone and seed."""
    keys = ("method", "data", "backbone", "seed")
    sound = {tuple(r[k] for k in keys): _accuracy(r) for r in all_runs if r["kind"] == HEALTHY}
    pairs = [
        (_accuracy(run), sound.get(tuple(run[k] for k in keys)))
        for run in runs
        if run["data"] == data
    ]
    changes = [now - then for now, then in pairs if now is not None and then is not None]
    return f"{sum(changes) / len(changes):+.1f}" if changes else "-"


def summarise(runs: Sequence[Run], all_runs: Sequence[Run], labels: bool) -> list[str]:
    """A row for each kind of run: how often it was named rightly, wrongly, or not at all."""
    rows: list[tuple[str, ...]] = [
        ("what was broken", "runs", "named rightly", "another fault named", "undecided",
         "called healthy", "kNN, digits", "kNN, CIFAR-10")
    ]  # fmt: skip
    for kind in dict.fromkeys(str(run["kind"]) for run in runs):
        mine = [run for run in runs if run["kind"] == kind]
        names = Counter(judge(run, labels).name for run in mine)
        right = sum(names[name] for name in RIGHT.get(kind, FAILED))
        healthy = 0 if HEALTHY in RIGHT.get(kind, ()) else names[HEALTHY]
        other = len(mine) - right - names[UNDECIDED] - healthy
        changes = [_mean_change(mine, all_runs, data) for data in ("digits", "cifar")]
        shown = SHOWN.get(str(kind), str(kind))
        counts = (len(mine), right, other, names[UNDECIDED])
        called = str(names[HEALTHY])
        rows.append((shown, *map(str, counts), called, *changes))
    return _markdown(rows)


def confuse(runs: Sequence[Run], labels: bool) -> list[str]:
    """The confusion table: a row for each kind of run, a column for each verdict."""
    found: dict[str, Counter[str]] = {}
    for run in runs:
        found.setdefault(str(run["kind"]), Counter())[judge(run, labels).name] += 1
    names = [
        n
        for n in (HEALTHY, UNDECIDED, DATA, VIEWS, DIVERGING, TOO_HIGH, POINT, DIMENSIONAL, TOO_LOW, NOT_BETTER,
                  WORSE)
        if any(counts[n] for counts in found.values())
    ]  # fmt: skip
    rows = [("what was broken", *names)]
    for kind, counts in found.items():
        shown = SHOWN.get(str(kind), str(kind))
        rows.append((shown, *(str(counts[n] or "") for n in names)))
    return _markdown(rows)


def list_methods(runs: Sequence[Run], labels: bool) -> list[str]:
    """A row for each method and kind: what was said of each of its runs."""
    rows: list[tuple[str, ...]] = [
        ("method", "what was broken", "verdicts on digits", "verdicts on CIFAR-10")
    ]
    for method in dict.fromkeys(run["method"] for run in runs):
        for kind in dict.fromkeys(str(r["kind"]) for r in runs if r["method"] == method):
            mine = [run for run in runs if (run["method"], run["kind"]) == (method, kind)]
            cells = [
                _count(judge(run, labels).name for run in mine if run["data"] == data)
                for data in ("digits", "cifar")
            ]
            rows.append((method, SHOWN.get(str(kind), str(kind)), *cells))
    return _markdown(rows)


def _count(names: Any) -> str:
    return ", ".join(f"{name} x {n}" if n > 1 else name for name, n in Counter(names).items())


def _markdown(rows: Sequence[tuple[str, ...]]) -> list[str]:
    columns = list(zip(*rows, strict=True))
    right = [all(_is_number(cell) for cell in column[1:]) for column in columns]
    return table_lines(columns, right, 60)


def _is_number(cell: str) -> bool:
    return cell in ("", "-") or cell.lstrip("+-").replace(".", "").isdigit()


PICTURES = {
    "collapse.png": ("byol", "digits", "no stop-gradient"),
    "dimensional.png": ("vicreg", "digits", "no variance term"),
    "rate_too_high.png": ("barlow_twins", "cifar", "rate x 100"),
    "rate_too_low.png": ("simclr", "cifar", "rate / 1000"),
}
"""Picture to the broken run that is drawn beside the healthy one of its method and data."""


def draw(runs: Sequence[Run], folder: Path) -> None:
    """Draw healthy runs and broken ones, two in a picture.

    Args:
        runs: one of each method, data and kind at most; a picture that lacks one of its two is left out.
        folder: of the pictures.
    """
    known = {(run["method"], run["data"], run["kind"]): run for run in runs}
    for name, (method, data, kind) in PICTURES.items():
        good, bad = known.get((method, data, HEALTHY)), known.get((method, data, kind))
        if good is None or bad is None:
            continue
        shown = {
            label: [
                {n: v for n, v in record.items() if "knn" not in n} for record in run["records"]
            ]
            for label, run in ((HEALTHY, good), (kind, bad))
        }
        verdict = judge(bad, labels=False).name
        draw_curves(folder / name, shown, f"{method}, {data}, {kind}. Verdict: {verdict}")
        with Image.open(folder / name) as picture:
            few = picture.convert("RGB").quantize(48)
        few.save(folder / name, optimize=True)  # a third of the bytes
