"""Options of a process and of the training loop, and the result of a training."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from sslortho.options import Options, RandomOptions, option


@dataclass(frozen=True, kw_only=True)
class ProcessOptions(Options):
    """Options of a process among those of a training: see `train.launch`."""

    threads: int | None = option(None, group="hardware", affects_result=False)
    """CPU threads of each process. Default: torch's own number; under a launcher, which would leave
    one, the machine's cores shared among its processes (when training on CPUs)."""
    rank_timeout: float = option(
        600, group="hardware", unit="seconds", rare=True, may_change=True, affects_result=False
    )
    """Time that a rank waits for the others before it gives up and the job ends. While the first one loads
    its images, which --skip_broken decodes all, the others wait for up to a day."""
    deterministic: bool = option(False, group="hardware", rare=True)
    """Use only operations whose bits are the same each time; on a CPU they are anyway, for one number
    of threads and ranks. An operation that has no such form is an error that names it."""
    matmul_precision: Literal["highest", "high", "medium"] | None = option(
        None, group="hardware", rare=True
    )
    """Precision of products of float32 matrices, as torch.set_float32_matmul_precision has it: high is TF32 on
    a GPU, medium bfloat16, on a CPU too. Losses follow it; the polar factor and crops keep float32. Default:
    torch's own, highest."""

    def __post_init__(self) -> None:
        self._check("rank_timeout", self.rank_timeout > 0, "above 0 seconds")
        self._check_least(1, "threads")
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class LoopOptions(RandomOptions):
    """Options of `Trainer`: how long it trains, and when it records, evaluates and saves."""

    epochs: int = option(required=True, group="optimisation")
    """Passes over the data."""
    accumulation_steps: int = option(1, group="optimisation", rare=True)
    """Parts that a step's samples are cut into to save memory."""
    evaluate_every: int = option(1, group="output", unit="epochs", affects_result=False)
    """Epochs between evaluations during training; 0 for none."""
    log_every: int = option(10, group="output", unit="steps", may_change=True, affects_result=False)
    """Steps between records of metrics.jsonl."""
    log_gradients: bool = option(
        False, group="output", rare=True, may_change=True, affects_result=False
    )
    """Record of each orthonormalised layer the cosine between raw and orthonormal gradient, their
    distance, and the gradient's effective rank, at every record."""
    log_layers: bool = option(
        False, group="output", rare=True, may_change=True, affects_result=False
    )
    """Record of each layer, at every record, the cosines between its filters and between their outputs,
    the number of zeros in its gradient, the gradient's norm and its cosine to the orthonormal one."""
    checkpoint_every: int = option(
        1, group="output", unit="epochs", may_change=True, affects_result=False
    )
    """Epochs between checkpoints. There is always one at the end and when a run is asked to stop."""
    keep_last: int = option(2, group="output", rare=True, may_change=True, affects_result=False)
    """Number of checkpoints kept."""
    max_bad_steps: int = option(
        10, group="optimisation", rare=True, may_change=True, affects_result=False
    )
    """Number of steps in a row with non-finite gradients after which training stops; each is skipped."""
    shard: bool = option(False, group="hardware", may_change=True)
    """Split parameters, gradients and optimizer state among the ranks (torch's FSDP2), for networks that
    are large for one GPU. A checkpoint is the same file, and resumes with or without it."""
    cuda_graphs: bool = option(False, group="hardware", rare=True)
    """torch.compile the model and replay its kernels as CUDA graphs (mode reduce-overhead): for small networks,
    which leave a GPU idle between the launches. One GPU only."""

    def __post_init__(self) -> None:
        self._check_least(1, "accumulation_steps", "epochs", "log_every")
        self._check_least(1, "checkpoint_every", "keep_last", "max_bad_steps")
        self._check_least(0, "evaluate_every")
        for name in ("log_layers", "log_gradients", "cuda_graphs"):
            if self.shard and getattr(self, name):
                raise ValueError(f"shard=True does not go with {name}=True; leave one of them out")
        if self.cuda_graphs and self.accumulation_steps > 1:
            raise ValueError(  # a replay overwrites the gradients of the part before it
                f"cuda_graphs=True does not go with accumulation_steps={self.accumulation_steps}; leave one of "
                "them out"
            )
        super().__post_init__()


@dataclass(frozen=True)
class TrainResult:
    """How training ended."""

    step: int
    """Optimizer steps taken in all."""
    stopped_by: int | None
    """Number of the signal that asked for a stop, perhaps after the last step; None if training is complete
    and none came."""
    loss: float
    """Loss of the last record."""
    images_per_second: float
    """Rate of this session's steps, without evaluations and waiting for checkpoints; nan if it took none."""
    time_shares: dict[str, float] = field(default_factory=dict)
    """Share of loader, step and optimizer in the time of this session's steps: see `StepTimes`."""
    peak_memory_gib: float | None = None
    """Most memory that this session had in use on its GPU, in GiB; None on a CPU."""

    @property
    def costs(self) -> dict[str, Any]:
        """Rate, shares and memory for summary.json; what is not known is left out."""
        rate = self.images_per_second
        known = {
            "images_per_second": rate if math.isfinite(rate) else None,
            "time_shares": self.time_shares or None,
            "peak_memory_gib": self.peak_memory_gib,
        }
        return {name: value for name, value in known.items() if value is not None}
