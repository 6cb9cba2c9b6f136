"""Options of bench_optim.py."""

from dataclasses import dataclass
from typing import Literal

from sslortho.options import Options, option


@dataclass(frozen=True, kw_only=True)
class BenchOptimOptions(Options):
    """Time orthonormalisation beside other libraries' methods, on the same gradients."""

    models: str = option("resnet18,resnet50,vit_b_16")
    """Comma-separated names of torchvision networks whose gradients are orthonormalised."""
    gradients: Literal["random", "real", "spectrum"] = option("real")
    """real: of the network after --steps steps on the embedded digits. random: Gaussian. spectrum:
    singular values from 1 to 1e-3, evenly on a logarithmic scale."""
    steps: int = option(10)
    """Training steps before the real gradients are taken."""
    rounds: int = option(5)
    """Times that every method runs; the methods take turns."""
    batch_size: int | None = option(None, unit="images")
    """Batch of the training step that OrthLARS is compared with, two views an image. Default: 256 on
    a GPU, 8 on a CPU."""
    image_size: int = option(224, unit="pixels")
    """Side of those images."""
    device: str = option("auto", group="hardware")
    """cpu, cuda, ...; auto: a GPU if there is one."""
    errors: bool = option(True)
    """Compare every result with a float64 SVD."""
    out: str = option("runs/bench_optim", group="output", path=True)
    """Folder of bench_optim.json and bench_optim.png."""
    debug: bool = option(False, group="output", rare=True)
    """Show the traceback of a user's error."""

    def __post_init__(self) -> None:
        self._check_least(1, "rounds", "image_size")
        self._check_least(0, "steps")
        super().__post_init__()
