"""Options of bench_loading.py."""

from dataclasses import dataclass
from pathlib import Path

from sslortho.options import Options, option


@dataclass(frozen=True, kw_only=True)
class BenchLoadingOptions(Options):
    """Time loaders and augmentation beside other libraries', on the same images."""

    data_dir: str = option(required=True, group="data", path=True)
    """Folder of images, in class folders or not; its folder train/ if it has one."""
    out: str = option("bench.json", group="output", path=True)
    """File of the figures; a plot of the same name, .png, is drawn beside it."""
    pipelines: str | None = option(None)
    """Comma-separated names. Default: all that are installed."""
    small: bool = option(False, group="data")
    """Small images of one size, held in memory, and the views for them: no blur."""
    reduced: bool = option(False, group="data")
    """Give every pipeline the beton's smaller images, pipelines that read files as files of their own:
    what a beton gains is then its form alone."""
    quick: bool = option(False)
    """Rough figures in under two minutes on two cores: few images, small batches, one round."""
    images: int | None = option(None, group="data", unit="images")
    """Number of images that are read, evenly spread over the folder. Default 512, with small 5,000,
    with quick 64 and 1,000."""
    crop_size: int | None = option(None, unit="pixels")
    """Side of the views. Default 224, with small 32."""
    batch_size: int | None = option(None, unit="images")
    """Size of a batch. Default 64, with small 256, with quick a quarter."""
    epochs: int | None = option(None)
    """Rounds, in which all pipelines take turns, after one that is not timed. Default 5, with quick 1."""
    cores: int | None = option(None, group="hardware")
    """Cores that this process and all that it starts are kept on. Default: all that it may use."""
    workers: int | None = option(None, group="hardware")
    """Processes or threads of every pipeline. Default: one a core."""
    max_resolution: int | None = option(None, group="data", unit="pixels")
    """Length that the longer side of larger images is reduced to in the beton. Default 500."""
    quality: int | None = option(None, group="data")
    """Quality of the beton's JPEGs, 1 to 100. Default 90."""
    debug: bool = option(False, group="output", rare=True)
    """Show the traceback of a user's error."""

    def __post_init__(self) -> None:
        self._check_least(
            1, "images", "crop_size", "batch_size", "epochs", "cores", "workers", "max_resolution"
        )
        quality = self.quality
        self._check("quality", quality is None or 1 <= quality <= 100, "from 1 to 100")
        self._check("out", Path(self.out).suffix == ".json", "a path that ends in .json")
        for name in ("max_resolution", "quality"):
            if self.small and getattr(self, name) is not None:
                raise ValueError(
                    f"{name}={getattr(self, name)} has no effect on small=True, which reads no beton"
                )
        if self.small and self.reduced:
            raise ValueError("reduced=True has no effect on small=True, which reads no beton")
        super().__post_init__()

    @property
    def image_count(self) -> int:
        """`images`, or its default."""
        usual = (1000 if self.quick else 5000) if self.small else (64 if self.quick else 512)
        return self.images or usual

    @property
    def rounds(self) -> int:
        """`epochs`, or its default."""
        return self.epochs or (1 if self.quick else 5)

    @property
    def view_size(self) -> int:
        """`crop_size`, or its default."""
        return self.crop_size or (32 if self.small else 224)

    @property
    def samples(self) -> int:
        """`batch_size`, or its default."""
        return self.batch_size or (256 if self.small else 64) // (4 if self.quick else 1)
