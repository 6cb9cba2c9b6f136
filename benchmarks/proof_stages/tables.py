"""Tables of the documentation, in Markdown, from the results and from nothing else."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .registry import UNITS
from .results import Result

Results = Mapping[str, Result]

REHEARSAL = "**A rehearsal at toy size on a CPU: nothing here may be quoted.**"

PAPER_TABLE3 = {
    "basic_cnn": ("73.60 ± 0.19", "76.67 ± 0.10"),
    "resnet20": ("79.14 ± 0.62", "87.12 ± 0.12"),
    "resnet18": ("77.01 ± 0.21", "84.68 ± 0.12"),
}
"""Test accuracy of SGDM and Orthogonal-SGDM in arXiv 2202.07052, table 3: 100 epochs, five seeds."""

SHARES = ("loader", "step", "optimizer")
"""Parts of the time of a training's steps."""


def write_tables(results: Results) -> str:
    """All tables whose figures are there, and a list of what is missing."""
    parts = [
        _describe_machine(results),
        _list_origins(results),
        _describe_tests(results),
        *(_list_methods(results, kind) for kind in ("real", "spectrum")),
        _list_steps(results),
        _list_renderers(results),
        _list_rates(results),
        _list_pretrainings(results),
        _list_table3(results),
        _describe_bits(results),
        _list_missing(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _figures(results: Results, unit: str) -> dict[str, Any]:
    return results.get(unit, {}).get("figures") or {}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _number(figures: Mapping[str, Any], name: str, digits: int) -> str:
    """A figure; empty where there is none, or null: a run that diverged has no finite one."""
    value = figures.get(name)
    return "" if value is None else f"{value:.{digits}f}"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.2f}" if seconds < 0.1 else f"{1000 * seconds:.0f}"


def _describe_machine(results: Results) -> str:
    machine = _figures(results, "machine")
    if not machine:
        return "The machine is not described: the unit `machine` has not run."
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    where = machine.get("gpu", machine["processor"])
    line = f"{where}, {machine['cores']} cores, {versions}, commit {machine['commit']}, {machine['date'][:10]}."
    return f"{REHEARSAL}\n\n{line}" if machine["rehearsal"] else line


def _list_origins(results: Results) -> str:
    """A warning where results come from several GPUs or commits, and from which; else nothing."""
    units: dict[str, list[str]] = {}
    for name, found in results.items():
        if "commit" in found:
            origin = f"{found.get('gpu') or 'no GPU'}, commit {found['commit']}"
            units.setdefault(origin, []).append(f"`{name}`")
    if len(units) < 2:
        return ""
    lines = [f"- {origin}: {', '.join(names)}" for origin, names in units.items()]
    return "\n".join(["**Results of several GPUs or commits: do not compare them.**", "", *lines])


def _describe_tests(results: Results) -> str:
    lines = []
    for unit, what in (("tests.gpu", "marked `gpu`"), ("tests.suite", "of the parts that compute")):
        found = _figures(results, unit)
        if found:
            counts = f"{found['passed']} passed, {len(found['failed'])} failed, {found['skipped']} skipped"
            lines.append(f"Tests {what}: {counts}.")
            lines += [f"- failed: `{name}`" for name in found["failed"]]
    return "\n".join(["## Tests", "", *lines]) if lines else ""


def _list_methods(results: Results, kind: str) -> str:
    """docs/orthonormalisation.md: orthonormalisation of all gradients of a network."""
    found = {name: _figures(results, f"optim.{name}-{kind}") for name in ("resnet18", "resnet50")}
    found = {name: figures for name, figures in found.items() if figures}
    if not found:
        return ""
    methods = dict.fromkeys(m for figures in found.values() for m in figures["methods"])
    rows = []
    for method in methods:
        cells, errors = [], []
        for figures in found.values():
            row = figures["methods"].get(method)
            once = ", one round" if row and row.get("stopped") else ""
            cells.append(
                f"{_milliseconds(row['seconds'])} ({row['ratio']:.1f}x{once})" if row else ""
            )
            errors += [row["worst_error"]] if row and "worst_error" in row else []
        rows.append([method, *cells, f"{max(errors):.0e}" if errors else ""])
    head = ["method", *(f"{name}, ms" for name in found), "worst error"]
    title = f"## Orthonormalisation, {kind} gradients (docs/orthonormalisation.md)"
    return f"{title}\n\n{_table(head, rows)}"


def _list_steps(results: Results) -> str:
    """docs/orthonormalisation.md: a training step and its parts."""
    rows = []
    for unit in ("step.resnet50", "step.resnet18"):
        found = _figures(results, unit)
        for name, row in found.get("optimizers", {}).items():
            waits, memory = row["synchronisations"], found["peak_gib"]
            graphs = found.get("graphs", {})
            replayed = graphs.get(name, {}).get("step_seconds")
            rows.append(
                [
                    f"{found['backbone']}, {found['crop_size']}",
                    name,
                    _milliseconds(found["forward"]),
                    _milliseconds(found["backward"]),
                    _milliseconds(row["optimizer_seconds"]),
                    _milliseconds(row["step_seconds"]),
                    f"{found['batch_size'] / row['step_seconds']:,.0f}",
                    graphs.get("error", "") if replayed is None else _milliseconds(replayed),
                    "" if waits is None else str(waits),
                    "" if memory is None else f"{memory:.1f}",
                ]
            )
    head = ["network", "optimizer", "forward, ms", "backward", "optimizer", "whole step", "pairs/s",
            "step as graphs", "waits", "peak GiB"]  # fmt: skip
    title = "## A step of Barlow Twins, views on the device (docs/orthonormalisation.md)"
    return f"{title}\n\n{_table(head, rows)}" if rows else ""


def _list_renderers(results: Results) -> str:
    """docs/loading.md: the photometric renderer."""
    found = {
        size: _figures(results, f"views.{size}").get("images_per_second", {})
        for size in ("224", "32")
    }
    names = dict.fromkeys(name for rates in found.values() for name in rates)
    rows = [
        [name, *(f"{rates[name]:,.0f}" if name in rates else "" for rates in found.values())]
        for name in names
    ]
    head = ["renderer", *(f"{size} pixels, images/s" for size in found)]
    title = "## Colour, blur and normalisation on the device (docs/loading.md)"
    return f"{title}\n\n{_table(head, rows)}" if rows else ""


def _list_rates(results: Results) -> str:
    """docs/loading.md: whole trainings."""
    rows = []
    for unit, found in results.items():
        if unit.startswith("rates.") and (figures := found.get("figures")):
            spread = f"{figures['slowest']:,.0f} to {figures['fastest']:,.0f}"
            rate = f"{figures['images_per_second']:,.0f}"
            measured = figures.get("time_shares") or {}
            shares = [f"{100 * measured[n]:.0f} %" if n in measured else "" for n in SHARES]
            memory = figures.get("peak_memory_gib")
            peak = "" if memory is None else f"{memory:.1f}"
            name = unit.removeprefix("rates.")
            rows.append([name, rate, spread, *shares, peak, figures["images"]])
    head = ["training", "images/s", "of the records", *SHARES, "peak GiB", "images"]
    return f"## Images a second of whole trainings\n\n{_table(head, rows)}" if rows else ""


def _list_pretrainings(results: Results) -> str:
    """docs/paper.md: CIFAR-10."""
    found = _figures(results, "pretrain")
    rows = [
        [
            name.rsplit("-s", 1)[0],
            f"{run['setting_lr']:g}",
            str(found["epochs"]),
            _number(run, "loss", 1) or "diverged",
            *(_number(run, name, 2) for name in ("knn_top1", "linear_top1")),
        ]
        for name, run in found.get("runs", {}).items()
    ]
    head = ["run", "lr (per 256)", "epochs", "final loss", "kNN top-1 (%)", "linear top-1 (%)"]
    title = f"## Barlow Twins on CIFAR-10, {found.get('row')}, one seed (docs/paper.md)"
    return f"{title}\n\n{_table(head, rows)}" if rows else ""


def _list_table3(results: Results) -> str:
    """docs/paper.md: rows of the paper's table 3."""
    found = _figures(results, "table3")
    runs = found.get("runs", {})
    rows = []
    for network, paper in PAPER_TABLE3.items():
        ours = [runs.get(f"{network}-{column}-s0", {}) for column in ("sgd", "orth_sgd")]
        if any(ours):
            cells = [
                _number(run, "top1", 2) or ("diverged" if run.get("diverged") else "")
                for run in ours
            ]
            rows.append([network, str(found["epochs"]), *cells, *paper])
    head = ["network", "epochs", "SGDM", "Orthogonal-SGDM", "the paper: SGDM", "Orthogonal-SGDM"]
    title = "## Table 3, test accuracy (%), one seed (docs/paper.md)"
    return f"{title}\n\n{_table(head, rows)}" if rows else ""


def _describe_bits(results: Results) -> str:
    """docs/reliability.md: the same bits twice."""
    lines = []
    for unit in ("bits.deterministic", "bits.usual"):
        if found := _figures(results, unit):
            how = "`--deterministic`" if found["deterministic"] else "without it"
            same = "the same bits" if found["same_bits"] else "other bits"
            lines.append(f"- {how}: {same} (largest difference {found['largest_difference']:.1e})")
    return (
        "\n".join(["## The same training twice (docs/reliability.md)", "", *lines]) if lines else ""
    )


def _list_missing(results: Results) -> str:
    """Units without figures, and why."""
    lines = []
    for unit in UNITS:
        result = results.get(unit.name, {})
        state = result.get("state", "not begun")
        if state != "done":
            reason = (result.get("error") or "").splitlines()
            lines.append(f"- `{unit.name}`: {state}{', ' + reason[-1] if reason else ''}")
    return "\n".join(["## Not measured", "", *lines]) if lines else ""
