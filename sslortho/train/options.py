"""How to train, and how it ended."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How to train, apart from what is trained."""

    epochs: int
    """Passes over the data."""
    accumulation_steps: int = 1
    """Batches of the loader that make up one optimizer step. The task sees each alone."""
    seed: int = 0
    """Of whatever the model draws itself, dropout say: reset at every step, so a resumed run draws
    what an unbroken one does."""
    log_every: int = 10
    """Steps between two records."""
    evaluate_every: int = 0
    """Epochs between two evaluations; 0 for none."""
    checkpoint_every: int = 1
    """Epochs between two checkpoints; there is always one at the end and when asked to stop."""
    shard: bool = False
    """Split parameters, gradients and optimizer state among the ranks; see `train.sharding`."""
    max_bad_steps: int = 10
    """Steps in a row with non-finite gradients (skipped) before training stops with an error."""
    log_gradients: bool = False
    """With every record, what orthonormalising does to each layer's gradient of that step."""
    log_layers: bool = False
    """With every record, the same of every matrix, whatever the optimizer, and how alike a layer's
    filters and representations are; see `train.instruments`."""


@dataclass(frozen=True)
class FitResult:
    """How training ended."""

    step: int
    """Optimizer steps taken in all."""
    stopped_by: int | None
    """Number of the signal that asked for a stop; None if training is complete."""
    loss: float
    """Of the last record."""
    images_per_second: float
    """Over this session's steps, evaluation and checkpoints left out; nan if it took none."""
