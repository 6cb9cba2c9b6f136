"""Orthonormalisation beside the SVD loop and the Muons: bench_optim's figures of one network."""

from typing import Any

from bench_optim import measure_model
from optim_bench.options import BenchOptimOptions

from .context import Context

TOY = {"rounds": 1, "steps": 1, "image_size": 64, "batch_size": 2}
TOY_MODEL = "shufflenet_v2_x0_5"


def measure(context: Context, model: str, gradients: Any) -> dict[str, Any]:
    """Figures of every method; see `bench_optim.measure_model`.

    Args:
        context: of the proof.
        model: torchvision's name.
        gradients: kind, as BenchOptimOptions has them.
    """
    sizes: dict[str, Any] = TOY if context.small else {"rounds": 20}
    options = BenchOptimOptions(gradients=gradients, **sizes)
    return measure_model(TOY_MODEL if context.small else model, options, context.device)
