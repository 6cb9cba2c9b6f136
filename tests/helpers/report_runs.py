"""Runs of a small experiment, written by hand, and how to read its report."""

import contextlib
import fcntl
import json

from sslortho.paper.grid import Cell, Experiment, Table
from sslortho.paper.grid_parts import PAPER_REACH
from sslortho.paper.report import write_report
from sslortho.runs.status import write_status

ROWS = {"basic_cnn": "BasicCNN", "resnet20": "resnet20"}
COLUMNS = {"sgd": "SGDM", "orth_sgd": "Orthogonal-SGDM"}
OPTIONS = {"epochs": 100, "batch_size": 1024, "lr": 0.01, "milestones": [50, 75]}


def experiment(rows=ROWS, columns=COLUMNS, seeds=3, **changed):
    cells = tuple(Cell(r, c, {**OPTIONS, "backbone": r, "optim": c}) for r in rows for c in columns)
    paper = {"basic_cnn-sgd": (73.6, 0.19), "basic_cnn-orth_sgd": (76.67, 0.1)}
    paper |= {"resnet20-sgd": (91.25, None), "resnet20-orth_sgd": (None, None)}
    kept = {
        "tables": (Table("Table 3: accuracy", "top1", paper), Table("Loss", "test_loss", {})),
        "plots": (),
        "reach": PAPER_REACH,
        "notes": (),
    }
    return Experiment("table3", "Ten models", "supervised", seeds, rows, columns, cells,
                      **{**kept, **changed})  # fmt: skip


class Runs:
    """Folders of runs, written by hand."""

    def __init__(self, out):
        self.out = out

    def folder(self, cell, seed):
        folder = self.out / "runs" / f"{cell}-s{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def begin(self, cell, seed=0, records=(), epochs=100):
        folder = self.folder(cell, seed)
        (folder / "config.yaml").write_text(f"data: cifar10\nepochs: {epochs}\nlr: 0.01\n")
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "metrics.jsonl").write_text(text)
        return folder

    def finish(self, cell, seed=0, top1: float | None = 80.0, records=(), options=(), **figures):
        folder = self.begin(cell, seed, records)
        row, column = cell.split("-")
        config = {**OPTIONS, "backbone": row, "optim": column, "data": "cifar10", "data_dir": "D",
                  "subset": None, "seed": seed, **dict(options)}  # fmt: skip
        summary = {"top1": top1, "test_loss": 0.5, "diverged": False, "config": config, **figures}
        (folder / "summary.json").write_text(json.dumps(summary))

    def diverge(self, cell, seed=0, records=()):
        self.finish(cell, seed, None, records, test_loss=None, diverged=True)

    def log(self, cell, seed, text):
        path = self.out / "logs" / f"{cell}-s{seed}.log"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
        return path

    def set_state(self, cell, seed, state):
        write_status(self.folder(cell, seed), state)

    @contextlib.contextmanager
    def running(self, *cells, seeds=(0,)):
        """The logs of these runs are locked, as by runs that are under way."""
        with contextlib.ExitStack() as stack:
            for cell in cells:
                for seed in seeds:
                    log = stack.enter_context(self.log(cell, seed, "$ python\n").open("ab"))
                    fcntl.flock(log, fcntl.LOCK_EX)
            yield

    def report(self, of=None, **asked):
        return write_report(of or experiment(), self.out, asked).read_text()


def table(text, title):
    """Rows of cells of the table below a heading; the header's first cell is empty."""
    lines = text.split(f"## {title}\n")[1].strip().splitlines()
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    del rows[1]
    return rows


def ours(text, row="BasicCNN", title="Table 3: accuracy"):
    """Our cells of a row: SGDM, Orthogonal-SGDM."""
    return next(cells for cells in table(text, title) if cells[0] == row)[1:4:2]


def section(text, title):
    return text.split(f"## {title}\n")[1].split("\n## ")[0].strip()


def accuracies(values, name="top1"):
    return [{"step": 10 * i, "epoch": i, name: value} for i, value in enumerate(values)]
