"""An experiment of the paper: a grid of runs, the paper's figures of them, and what to draw."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PaperFigure = tuple[float | None, float | None]
"""Mean and standard error; the error None if the paper gives none, both None if training diverged."""


@dataclass(frozen=True)
class Cell:
    """One cell of the grid."""

    row: str
    """Key of its row, such as basic_cnn."""
    column: str
    """Key of its column, such as orth_sgd."""
    options: Mapping[str, Any]
    """All options of the command but seed, out, data, data_dir and subset."""

    @property
    def name(self) -> str:
        """Row and column."""
        return f"{self.row}-{self.column}"


@dataclass(frozen=True)
class Table:
    """A table of one figure over all cells."""

    title: str
    figure: str
    """Key of summary.json."""
    paper: Mapping[str, PaperFigure]
    """Name of a cell to the paper's figure; cells without one are left out."""


@dataclass(frozen=True)
class Plot:
    """Curves of some cells."""

    name: str
    """File name without suffix."""
    title: str
    quantity: str
    """Name in metrics.jsonl. accuracy, evaluation_loss: of the validation images if the run holds some
    out, else of the test images."""
    cells: tuple[str, ...]
    """Names of cells; empty for all."""
    x: str
    """epoch or step."""


@dataclass(frozen=True)
class Search:
    """How the rate of every cell is chosen before its runs, with as many trials for each."""

    trials: int
    objective: str
    """Key of summary.json, of images that no table shows."""
    maximise: bool
    """Whether a larger objective is better."""
    seed: int
    """Seed of the trials; no run has it."""
    options: Mapping[str, Any]
    """Options of trials alone."""
    start: Mapping[str, Mapping[str, float]]
    """First values of a column, or of a cell by its name: lr and momenta, see `Compass`."""

    def start_of(self, cell: Cell) -> Mapping[str, float]:
        """First values of a cell."""
        return self.start.get(cell.name) or self.start[cell.column]


@dataclass(frozen=True)
class Reach:
    """A comparison of the epochs that each column takes to the final accuracy of another."""

    baseline: str
    """Key of the column whose final accuracy is the target."""
    quantity: str
    """Accuracy in metrics.jsonl, as `Plot.quantity`."""
    columns: tuple[str, ...]
    """Keys of the columns that are compared with it."""
    remark: str = ""
    """Sentence below the table."""


@dataclass(frozen=True)
class Experiment:
    """Runs of every cell with several seeds, and the paper's figures of them."""

    name: str
    title: str
    command: str
    """supervised or pretrain."""
    seeds: int
    rows: Mapping[str, str]
    """Key to the label shown, in order."""
    columns: Mapping[str, str]
    cells: tuple[Cell, ...]
    """Row after row."""
    tables: tuple[Table, ...]
    plots: tuple[Plot, ...]
    notes: tuple[str, ...]
    data: str = "cifar10"
    """The paper's data set."""
    search: Search | None = None
    """None: the cells have their rates."""
    reach: Reach | None = None
