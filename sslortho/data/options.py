"""Options of image sets and their loaders. Imports no torch."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sslortho.options import GIVEN, RandomOptions, nearest, option

DATA_SETS = ("digits", "cifar10", "cifar100", "folder", "beton", "imagenet")
"""Data sets by name."""

PATH = "path"
"""Value of `data` for images of the user's own, at `data_dir`."""

PATTERN = ("*", "?", "{")
"""Characters of a path that stands for several files."""

Labels = Literal["auto", "folders", "none"]


@dataclass(frozen=True, kw_only=True)
class DataOptions(RandomOptions):
    """Which images, and how a process reads them."""

    data: str = option("digits", group="data")
    """Images: digits, cifar10, cifar100, or the path of your own: a folder as it is (train/ and test/ or
    val/ in it are known), a file .beton, .npy or .npz, a list of image files .txt, shards .tar in WebDataset's
    layout (a folder of them, 'x-{000..012}.tar', an address). With data_dir also folder, beton and
    imagenet, for folders as torchvision reads them."""
    data_dir: str | None = option(None, group="data", path=True, by_content=True)
    """Folder of a data set by name (digits needs none)."""
    test_data: str | None = option(None, group="data", path=True, by_content=True)
    """Path of images to test on, for images of your own. Default: test/ or val/ in the folder."""
    labels: Labels = option("auto", group="data")
    """Labels of your own images. folders: names of the folders. none: no labels. auto: folders in train/, none
    for other folders; those that a list, shards or Python objects have."""
    subset: int | None = option(None, group="data")
    """Train on this many images only, balanced over the classes and chosen by seed."""
    exif_orientation: bool | None = option(None, group="data", rare=True)
    """Turn photographs as their EXIF data say, so that they are seen as people see them. Default: true
    for images of your own; false for data sets by name, which torchvision reads so."""
    image_column: str | None = option(None, group="data", rare=True)
    """Column, key or suffix that holds the image, where a data set of your own has several."""
    label_column: str | None = option(None, group="data", rare=True)
    """Column or key that holds the label, likewise."""
    cache: Literal["os", "process"] | None = option(None, group="data", rare=True)
    """How a beton is read. os: mapped into memory, shared by the ranks of a machine. process: whole
    pages ahead of need, in an order that visits each once or twice; for data larger than memory, of
    which it takes about batch_size pages over all ranks. Default os."""
    loader: Literal["auto", "tensor", "files"] = option(
        "auto", group="data", rare=True, affects_result=False
    )
    """How a folder is read: into memory, or file by file. auto: memory if all are small."""
    follow_links: bool = option(
        False, group="data", rare=True, may_change=True, affects_result=False
    )
    """Read images through symbolic links that lead out of data_dir."""
    skip_broken: bool | None = option(None, group="data", may_change=True)
    """Leave out images that cannot be decoded, and list them in skipped_images.txt in the run folder;
    false: they are an error before training. To find them, each image is decoded once when a run begins:
    about 2 s of a core for 1,000 photographs of ImageNet. A run that resumes keeps its list. Default, for
    images of your own: of up to 100,000, leave out those with a broken header or end, if they are at
    most 1 in 20; for data sets by name: false."""
    workers: int | None = option(None, group="hardware", may_change=True, affects_result=False)
    """Threads that decode and augment images of a folder or a beton, on each rank; 0 for none.
    Default: the machine's cores, shared among its ranks."""
    worker_type: Literal["threads", "processes"] | None = option(
        None, group="hardware", rare=True, may_change=True, affects_result=False
    )
    """Who calls the __getitem__ of a Dataset from Python. processes: nothing in it need be safe for
    threads. threads: no process starts; fast where it waits, or is busy outside of Python. Default:
    processes, and threads for a list and for Hugging Face's."""
    channels_last: bool = option(True, group="hardware", rare=True)
    """Memory format of views and convolutions; the faster one for convolutions nearly everywhere."""

    def __post_init__(self) -> None:
        if self.data not in (*DATA_SETS, PATH, GIVEN):
            self._take_path()
        self._check_least(0, "workers")
        files, own = self.data in ("folder", "imagenet"), self.data in (PATH, GIVEN)
        betons = self.data in ("beton", "imagenet")
        named_column = self.data != GIVEN and self.data != PATH
        self._check_effect(
            "data",
            data_dir=self.data in ("digits", GIVEN) and self.data_dir is not None,
            test_data=self.data != PATH and self.test_data is not None,
            labels=not own and self.labels != "auto",
            exif_orientation=not (own or files) and self.exif_orientation is not None,
            image_column=named_column and self.image_column is not None,
            label_column=named_column and self.label_column is not None,
            loader=self.loader != "auto" and not (own or files),
            cache=self.cache is not None and not (betons or self.data == PATH),
            follow_links=self.follow_links and not (files or self.data == PATH),
            skip_broken=bool(self.skip_broken) and not (own or files or betons),
            worker_type=self.data != GIVEN and self.worker_type is not None,
        )
        super().__post_init__()

    def _take_path(self) -> None:
        """Make of `data`, a path, PATH and `data_dir`. Raises ValueError if there is nothing at the path."""
        if self.data_dir is not None:
            raise ValueError(
                f"data={self.data!r} and data_dir={self.data_dir!r} are two folders; give one of them"
                f"{nearest(self.data, DATA_SETS)}"
            )
        path = self._expand("data", self.data)
        several = "://" in path or any(c in path for c in PATTERN)
        if not (several or os.path.exists(path)):  # noqa: PTH110 - a Path raises for odd names
            raise ValueError(
                f"data={self.data!r} is neither a folder or file nor one of {', '.join(DATA_SETS)}"
                f"{nearest(self.data, DATA_SETS)}"
            )
        object.__setattr__(self, "data", PATH)
        object.__setattr__(self, "data_dir", path)

    @property
    def data_name(self) -> str:
        """Short name of the data, for the name of a run folder."""
        if self.data != PATH or self.data_dir is None:
            return self.data
        name = Path(self.data_dir).resolve().name
        return "".join(c if c.isalnum() or c in "-_." else "_" for c in name) or PATH

    @property
    def turns_upright(self) -> bool:
        """Whether EXIF's orientation is applied."""
        if self.exif_orientation is None:
            return self.data in (PATH, GIVEN)
        return self.exif_orientation

    @property
    def skip_list(self) -> Path | None:
        """File that lists the images which skip_broken leaves out; None for no list."""
        return None
