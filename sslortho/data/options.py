"""Options of image sets and their loaders. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sslortho.options import RandomOptions, option


@dataclass(frozen=True, kw_only=True)
class DataOptions(RandomOptions):
    """Which images, and how a process reads them."""

    data: Literal["digits", "cifar10", "cifar100", "folder", "beton", "imagenet"] = option(
        "digits", group="data"
    )
    """Data set. folder: data_dir/train/<class>/*, data_dir/test or val/<class>/*. beton:
    data_dir/train.beton, data_dir/val.beton, see write_beton; needs FFCV. imagenet: betons if data_dir
    has them, else folders."""
    data_dir: str | None = option(None, group="data", path=True, by_content=True)
    """Folder of the data set (digits needs none)."""
    subset: int | None = option(None, group="data")
    """Train on this many images only, balanced over the classes and chosen by seed."""
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
    skip_broken: bool = option(False, group="data", may_change=True)
    """Leave out images that cannot be decoded, and list them in skipped_images.txt in the run folder;
    without it they are an error before training. To find them, each image is decoded once when a run
    begins: about 2 s of a core for 1,000 photographs of ImageNet. A run that resumes keeps its list."""
    workers: int | None = option(None, group="hardware", may_change=True, affects_result=False)
    """Threads that decode and augment images of a folder or a beton, on each rank; 0 for none.
    Default: the machine's cores, shared among its ranks."""
    channels_last: bool = option(True, group="hardware", rare=True)
    """Memory format of views and convolutions; the faster one for convolutions nearly everywhere."""

    def __post_init__(self) -> None:
        self._check_least(0, "workers")
        self._check_effect(
            "data",
            data_dir=self.data == "digits" and self.data_dir is not None,
            loader=self.loader != "auto" and self.data not in ("folder", "imagenet"),
            cache=self.cache is not None and self.data not in ("beton", "imagenet"),
            follow_links=self.follow_links and self.data not in ("folder", "imagenet"),
            skip_broken=self.skip_broken and self.data not in ("folder", "beton", "imagenet"),
        )
        super().__post_init__()

    @property
    def skip_list(self) -> Path | None:
        """File that lists the images which skip_broken leaves out; None for no list."""
        return None
