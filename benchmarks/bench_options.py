"""What bench_optim.py and bench_loading.py can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sslortho.recipes.options import Checked


@dataclass(frozen=True, kw_only=True)
class BenchOptimOptions(Checked):
    """Time orthonormalisation beside the ways that others take, on the same gradients."""

    models: str = "resnet18,resnet50,vit_b_16"
    """Comma-separated names of torchvision networks; their gradients are what is orthonormalised."""
    gradients: Literal["random", "real", "spectrum"] = "real"
    """real: of the network after --steps steps on the embedded digits. random: Gaussian. spectrum:
    singular values from 1 to 1e-3, evenly on a logarithmic scale."""
    steps: int = 10
    """Training steps before the real gradients are taken."""
    rounds: int = 5
    """Times that every method runs, in turn."""
    batch_size: int | None = None
    """Images of the training step whose share is measured, two views each. Default: 256 on a GPU, 8
    on a CPU."""
    image_size: int = 224
    """Side of those images in pixels."""
    device: str = "auto"
    """cpu, cuda, ...; auto: a GPU if there is one."""
    errors: bool = True
    """Compare every result with a float64 SVD."""
    out: str = "runs/bench_optim"
    """Folder of bench_optim.json and bench_optim.png."""
    debug: bool = False
    """Show the traceback of an error that is the user's."""

    def __post_init__(self) -> None:
        for name in ("rounds", "image_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be 1 or more")
        if self.steps < 0:
            raise ValueError(f"steps={self.steps} must be 0 or more")
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class BenchLoadingOptions(Checked):
    """Time loaders and augmentation beside other libraries', on the same images."""

    data_dir: str
    """Folder of images, in class folders or not; its folder train/ if it has one."""
    out: str = "bench.json"
    """File of the figures; a plot of the same name, .png, is drawn beside it."""
    pipelines: str | None = None
    """Comma-separated names. Default: all that are installed."""
    small: bool = False
    """Small images of one size, held in memory, and the views for them: no blur."""
    images: int | None = None
    """Images that are read, evenly spread over the folder. Default 512, with small 5,000."""
    crop_size: int | None = None
    """Side of the views in pixels. Default 224, with small 32."""
    batch_size: int | None = None
    """Images of a batch. Default 64, with small 256."""
    epochs: int = 5
    """Rounds, in which all pipelines take turns, after one that is not timed."""
    workers: int | None = None
    """Processes or threads of every pipeline. Default: one a core."""
    max_resolution: int | None = None
    """Of the beton: pixels that the longer side of larger images is reduced to. Default 500."""
    quality: int | None = None
    """Of the beton's JPEGs, 1 to 100. Default 90."""
    debug: bool = False
    """Show the traceback of an error that is the user's."""

    def __post_init__(self) -> None:
        for name in ("images", "crop_size", "batch_size", "epochs", "workers", "max_resolution"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be 1 or more")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"quality={self.quality} must be from 1 to 100")
        if Path(self.out).suffix != ".json":
            raise ValueError(f"out={self.out!r} must be a path that ends in .json")
        for name in ("max_resolution", "quality"):
            if self.small and getattr(self, name) is not None:
                raise ValueError(
                    f"{name}={getattr(self, name)} has no effect on small=True, which reads no beton"
                )
        super().__post_init__()

    @property
    def image_count(self) -> int:
        """`images`, or its default."""
        return self.images or (5000 if self.small else 512)

    @property
    def view_size(self) -> int:
        """`crop_size`, or its default."""
        return self.crop_size or (32 if self.small else 224)

    @property
    def samples(self) -> int:
        """`batch_size`, or its default."""
        return self.batch_size or (256 if self.small else 64)
