"""Many runs seen together."""

from sslortho.experiments.comparison import (
    Comparison,
    Row,
    Run,
    Statistic,
    compare_runs,
)
from sslortho.experiments.grid import Experiment
from sslortho.experiments.grid_file import read_experiment
from sslortho.experiments.report import write_report
from sslortho.experiments.tables import to_csv, to_markdown

__all__ = [
    "Comparison",
    "Experiment",
    "Row",
    "Run",
    "Statistic",
    "compare_runs",
    "read_experiment",
    "to_csv",
    "to_markdown",
    "write_report",
]
