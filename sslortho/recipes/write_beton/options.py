"""Options of `write_beton`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from sslortho.data.options import DATA_SETS, DataOptions, Labels
from sslortho.options import Options, option

NAMED = ("digits", "cifar10", "cifar100", "folder")
"""Data sets that go by a name."""


@dataclass(frozen=True, kw_only=True)
class WriteBetonOptions(Options):
    """Write a data set as one .beton file, which loads several times faster than image files."""

    command: ClassVar[str] = "write_beton"

    data: str = option("folder", group="data")
    """Images: digits, cifar10, cifar100, folder (data_dir/train/<class>/*, data_dir/test or val/<class>/*), or
    the path of your own, as pretraining takes it: a folder as it is, a file .npy, .npz or .txt, shards .tar."""
    data_dir: str | None = option(None, group="data", path=True)
    """Folder of a data set by name (digits needs none)."""
    labels: Labels = option("auto", group="data")
    """Labels of your own images, as in pretraining: folders, none or auto."""
    exif_orientation: bool | None = option(None, group="data", rare=True)
    """Turn photographs as their EXIF data say. Default: true for images of your own; false for data sets by
    name."""
    image_column: str | None = option(None, group="data", rare=True)
    """Suffix of the images in shards, where there are several."""
    follow_links: bool = option(False, group="data", rare=True)
    """Read images through symbolic links that lead out of data_dir."""
    split: Literal["train", "val", "test"] = option("train", group="data")
    """Part of the data. val and test are two names for the part that is not for training."""
    out: str = option(required=True, group="output", path=True)
    """File to write; B/train.beton and B/val.beton are what pretraining reads of --data_dir B."""
    mode: Literal["raw", "jpg", "smart"] = option("jpg", group="output")
    """raw: pixels. jpg: JPEG bytes. smart: pixels where they take at most smart_threshold times the
    bytes of a JPEG, a JPEG elsewhere."""
    max_resolution: int | None = option(None, group="output", unit="pixels")
    """Length that the longer side of larger images is reduced to. Default: their own size."""
    quality: int | None = option(None, group="output")
    """Quality of JPEGs, 1 to 100. Default: JPEG files that need no resizing keep their bytes, other images
    are encoded with 90."""
    smart_threshold: float | None = option(None, group="output", rare=True)
    """Threshold of mode smart; default 4."""
    page_size: int = option(8, group="output", rare=True, unit="MiB")
    """Size of a page, a power of two from 2 to 2048; the most that one image may take."""
    workers: int | None = option(None, group="hardware", unit="threads")
    """Threads that decode and encode. Default: one a core."""
    skip_broken: bool = option(False, group="data")
    """Leave out image files that cannot be decoded, and list them in the manifest."""
    overwrite: bool = option(False, group="output")
    """Replace an existing file."""
    debug: bool = option(False, group="output", rare=True)
    """Show the traceback of a user's error."""

    def __post_init__(self) -> None:
        page_size, quality = self.page_size, self.quality
        self._check("out", Path(self.out).suffix == ".beton", "a path that ends in .beton")
        self._check_least(1, "max_resolution", "workers")
        self._check("quality", quality is None or 1 <= quality <= 100, "from 1 to 100")
        threshold = self.smart_threshold
        self._check("smart_threshold", threshold is None or threshold > 0, "above 0")
        power = 2 <= page_size <= 2048 and page_size & (page_size - 1) == 0
        self._check("page_size", power, "a power of two from 2 to 2048 (MiB)")
        if self.data in DATA_SETS and self.data not in NAMED:
            raise ValueError(
                f"data={self.data!r} must be one of {', '.join(NAMED)}, or the path of images; the folders of "
                "ImageNet are data='folder', and a beton is written from its source"
            )
        own = self.origin is not None
        if not own and self.data != "digits" and self.data_dir is None:
            raise ValueError(f"data={self.data!r} needs data_dir, the folder that it lies in")
        self._check_effect(
            "data",
            data_dir=self.data == "digits" and self.data_dir is not None,
            labels=not own and self.labels != "auto",
            exif_orientation=not own and self.exif_orientation is not None,
            image_column=not own and self.image_column is not None,
            follow_links=not own and self.data != "folder" and self.follow_links,
            skip_broken=not own and self.data != "folder" and self.skip_broken,
        )
        self._check_effect(
            "mode",
            quality=self.mode == "raw" and quality is not None,
            smart_threshold=self.mode != "smart" and threshold is not None,
        )
        super().__post_init__()

    @property
    def origin(self) -> DataOptions | None:
        """Where images of one's own are, and how they are read; None for a data set by name.

        Raises ValueError where there is nothing at the path.
        """
        if self.data in NAMED:
            return None
        return DataOptions(
            data=self.data,
            data_dir=self.data_dir,
            labels=self.labels,
            follow_links=self.follow_links,
            exif_orientation=self.exif_orientation,
            image_column=self.image_column,
        )
