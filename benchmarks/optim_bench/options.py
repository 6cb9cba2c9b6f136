"""Options of bench_optim.py."""

from dataclasses import dataclass
from typing import Literal

from sslortho.options import Options, option


@dataclass(frozen=True, kw_only=True)
class BenchOptimOptions(Options):
    """Time orthonormalisation beside other libraries' methods, on the same gradients."""

    models: str | None = option(None)
    """Comma-separated names of torchvision networks whose gradients are orthonormalised. Default:
    resnet18,resnet50,vit_b_16, with quick resnet18."""
    quick: bool = option(False)
    """Rough figures in under two minutes on two cores: one network, one round, few training steps, and on a
    CPU no method in bfloat16."""
    bfloat16: bool = option(True)
    """Time the methods in bfloat16 too; a CPU without instructions for it takes minutes for each."""
    gradients: Literal["random", "real", "spectrum"] = option("real")
    """real: of the network after --steps steps on the embedded digits, 64 of 64 pixels at a time, so that large
    matrices have a low rank; of a transformer 16 of --image_size pixels. random: Gaussian. spectrum: singular
    values from 1 to 1e-3, evenly on a logarithmic scale."""
    steps: int | None = option(None)
    """Training steps before the real gradients are taken. Default 10, with quick 2."""
    rounds: int | None = option(None)
    """Times that every method runs; the methods take turns. Default 5, with quick 1."""
    batch_size: int | None = option(None, unit="images")
    """Batch of the training step that OrthLARS is compared with, two views an image. Default: 256 on
    a GPU, 8 on a CPU."""
    image_size: int | None = option(None, unit="pixels")
    """Side of those images. Default 224, with quick 64."""
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

    @property
    def names(self) -> str:
        """`models`, or its default."""
        if self.models is not None:
            return self.models
        return "resnet18" if self.quick else "resnet18,resnet50,vit_b_16"

    @property
    def training_steps(self) -> int:
        """`steps`, or its default."""
        return (2 if self.quick else 10) if self.steps is None else self.steps

    @property
    def turns(self) -> int:
        """`rounds`, or its default."""
        return self.rounds or (1 if self.quick else 5)

    @property
    def side(self) -> int:
        """`image_size`, or its default."""
        return self.image_size or (64 if self.quick else 224)
