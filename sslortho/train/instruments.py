"""Figures of each layer for a record, measured only at the step before it."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.optim import Optimizer

from sslortho.models.representations import Representations, watch_representations
from sslortho.optim.monitor import measure_gradients, measure_layers
from sslortho.train.options import LoopOptions


class Instruments:
    """The analysis of arXiv 2202.07052, section 4, at the steps that a record follows.

    `options.log_gradients` asks for `optim.monitor.measure_gradients`; `options.log_layers` for
    `measure_layers`, which includes them, and for "representation_cosine/NAME" of each convolution
    and activation module that learns (`models.representations`): its first call in the first batch
    of the step. Gradients are those that the optimizer receives: the mean over accumulated batches and
    ranks, unscaled. A skipped step is not measured.

    Each rank measures its own images; the figures of the main rank are written. Modules compiled by
    torch.compile run uncompiled in the batch that is watched, since compiled code bypasses hooks; the
    rounding of that batch differs.

    Args:
        task: not wrapped by Accelerate, so that names are its own.
        optimizer: whose groups carry the names and layouts of the matrices.
        options: `log_gradients` and `log_layers` are read.
    """

    def __init__(self, task: nn.Module, optimizer: Optimizer, options: LoopOptions) -> None:
        self.task = task
        self.optimizer = optimizer
        self.options = options
        self.watched: Representations | None = None
        self.figures: dict[str, float] = {}

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Watch the first forward and backward of a step that a record follows."""
        if not self.options.log_layers:
            yield
            return
        with watch_representations(self.task, learning_only=True) as self.watched:
            yield

    def measure(self) -> None:
        """Measure the gradients of such a step, before the optimizer replaces them."""
        groups = self.optimizer.param_groups
        if self.options.log_layers:
            self.figures = measure_layers(groups)
        elif self.options.log_gradients:
            self.figures = measure_gradients(groups)
        if self.watched is not None:
            cosines = self.watched.cosines()
            self.figures.update({f"representation_cosine/{k}": v for k, v in cosines.items()})

    def take(self) -> dict[str, float]:
        """Return the figures for the record, and forget them."""
        figures, self.figures, self.watched = self.figures, {}, None
        return figures
