"""Options of `embed`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from sslortho.data.options import DATA_SETS
from sslortho.data.skip_list import SKIP_LIST
from sslortho.options import option
from sslortho.recipes.options import BackboneOptions


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(BackboneOptions):
    """Write the features of images by a frozen backbone, with the images' names and labels:
    `sslortho embed RUN --data photos --out photos.npz`. Killed and started again, it computes only what
    is missing."""

    command: ClassVar[str] = "embed"

    split: Literal["train", "test"] | None = option(None, group="data")
    """Images of the data set that the features are of. Default: of a data set by name the test images; of
    images of your own those to test on, or all where there are none."""
    out: str | None = option(None, group="output", path=True, may_change=True, affects_result=False)
    """File to write. .npz: NumPy's archive with features, names, labels, classes. .parquet: a table, needs the
    extra [parquet]. .npy: the features alone, for numpy.load(mmap_mode="r"), names and labels beside it in
    .rows.csv; for sets that do not fit into memory."""
    dtype: Literal["float32", "float16"] = option("float32", group="output")
    """Type of the features in the file. float16 takes half the space, and has 3 digits."""
    overwrite: bool = option(
        False, group="output", may_change=True, affects_result=False, once=True
    )
    """Replace a file of other images or weights, and drop what a killed run has left of it."""

    def __post_init__(self) -> None:
        names = ("subset", "train_percent", "train_list")
        given = [name for name in names if getattr(self, name) is not None]
        if self.split is None and self.data in DATA_SETS:
            if given:
                raise ValueError(
                    f"{given[0]}={getattr(self, given[0])!r} has no effect on the test images, whose features "
                    f"are made of data={self.data!r}; give split='train'"
                )
            object.__setattr__(self, "split", "test")
        self._check_effect("split", **dict.fromkeys(given, self.split == "test"))
        self._check_effect(
            "out",
            dtype=self.out is None and self.dtype != "float32",
            overwrite=self.out is None and self.overwrite,
        )
        super().__post_init__()

    @property
    def default_folder(self) -> str:
        return "."  # nothing is written

    @property
    def work_folder(self) -> Path:
        """Folder of the rows that are there, until all are."""
        return Path(f"{self.out}.partial")

    @property
    def run_folder(self) -> Path:
        return Path() if self.out is None else self.work_folder

    @property
    def skip_list(self) -> Path | None:
        """List in the folder of the rows; None where nothing is written."""
        return None if self.out is None else self.work_folder / SKIP_LIST
