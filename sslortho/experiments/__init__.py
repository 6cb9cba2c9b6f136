"""Many runs seen together."""

from sslortho.experiments.comparison import (
    Comparison,
    Row,
    Run,
    Statistic,
    compare_runs,
)
from sslortho.experiments.tables import to_csv, to_markdown

__all__ = [
    "Comparison",
    "Row",
    "Run",
    "Statistic",
    "compare_runs",
    "to_csv",
    "to_markdown",
]
