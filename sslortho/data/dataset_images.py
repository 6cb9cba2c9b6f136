"""Images of a map-style Dataset: torch's, a list, Hugging Face's, or any object with its two methods."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from sslortho.augment import ViewRenderer
from sslortho.augment.renderer import Renderer
from sslortho.data.batches import EvaluationLoader
from sslortho.data.broken_images import BAR_AFTER
from sslortho.data.decoding import BrokenImageError
from sslortho.data.identity import ImageTable, hash_array
from sslortho.data.image_sets import ImageSet
from sslortho.data.item_workers import ItemReader
from sslortho.data.labels import Labelling
from sslortho.data.prefetch import map_in_pieces
from sslortho.data.tensor_loader import TensorLoader
from sslortho.data.view_loader import Indices, ViewLoader

if TYPE_CHECKING:
    from typing_extensions import Self

READ_TWICE = 4
"""Items that are read a second time, to see whether they change; a flip at random shows in one of two."""

SAMPLED = 32
"""Items whose pixels tell the identity of a Dataset, spread evenly; items may be slow to read."""


@dataclass(frozen=True, eq=False)
class DatasetImages(ImageSet):
    """Items of a Dataset, read when they are needed; labels int64 (n,) or -1."""

    tells_sizes = False  # without a type, so that it is no field
    reader: ItemReader
    places: NDArray[np.int64]
    """(n,): places of the samples in the Dataset."""
    labels: Tensor
    classes: tuple[str, ...]
    origin: ImageTable
    """Table of the samples."""

    def __len__(self) -> int:
        return len(self.places)

    def select(self, indices: Tensor) -> "Self":
        chosen = indices.numpy()
        return replace(
            self,
            places=self.places[chosen],
            labels=self.labels[indices],
            origin=self.origin.select(chosen),
        )

    def create_train_loader(
        self, renderer: ViewRenderer, *, workers: int, **options: Any
    ) -> ViewLoader | TensorLoader:
        return super().create_train_loader(renderer, workers=self._threads(workers), **options)

    def create_evaluation_loader(
        self, renderer: Renderer, *, workers: int, **options: Any
    ) -> EvaluationLoader:
        return super().create_evaluation_loader(renderer, workers=self._threads(workers), **options)

    def _threads(self, workers: int) -> int:
        """Two for each process, so that one waits for its next item while the other renders."""
        return max(workers, 2 * self.reader.processes)

    @property
    def table(self) -> ImageTable:
        return self.origin

    def open(self, index: int) -> NDArray[np.uint8]:
        return self.reader.read(int(self.places[index]))

    def sizes(self, indices: Indices) -> tuple[Indices, Indices]:
        """Heights and widths of the decoded items: a Dataset does not tell sizes otherwise."""
        found = [self.open(int(i)).shape[:2] for i in indices]
        heights, widths = np.array(found, np.int64).reshape(-1, 2).T
        return heights, widths

    @cached_property
    def first_size(self) -> tuple[int, int]:
        height, width, _ = self.open(0).shape
        return height, width

    def check(self, index: int, thorough: bool = False) -> tuple[int, int]:
        """Read an item if `thorough`; else (0, 0): there is no cheap check."""
        if not thorough:
            return 0, 0
        height, width, _ = self.open(index).shape
        return width, height

    def name_of(self, index: int) -> str:
        return f"item {self.places[index]}"


def take_items(reader: ItemReader, labelling: Labelling) -> DatasetImages:
    """Image set of all items.

    Args:
        reader: of the items.
        labelling: labels of the items.

    Raises ValueError for a Dataset without items. Warns if one of READ_TWICE items is not the same a second
    time: then nothing can be exact.
    """
    count = len(reader.items)
    if count == 0:
        raise ValueError(f"{reader.items.title} has no items; give one that holds images")
    labels, classes = labelling.find(count)
    ends = _hash_some(reader, count)
    names = [str(i) for i in range(count)]
    return DatasetImages(
        reader=reader,
        places=np.arange(count),
        labels=labels,
        classes=classes,
        origin=ImageTable(labels.numpy(), classes, names, ends=ends),
    )


def _hash_some(reader: ItemReader, count: int) -> NDArray[np.int64]:
    """Hashes of the pixels of some items, (count,); 0 for the others, and for one that cannot be read."""
    ends = np.zeros(count, np.int64)
    chosen = np.unique(np.linspace(0, count - 1, SAMPLED).astype(np.int64))

    def attempt(place: int) -> int:
        try:
            return hash_array(reader.read(place))
        except BrokenImageError:
            return 0

    with ThreadPoolExecutor(max(1, reader.processes)) as pool:
        ends[chosen] = list(pool.map(attempt, chosen.tolist()))
        twice = chosen[:READ_TWICE].tolist()
        again = list(pool.map(attempt, twice))
    changing = [i for i, end in zip(twice, again, strict=True) if ends[i] and ends[i] != end]
    if changing:
        warnings.warn(
            f"item {changing[0]} of {reader.items.title} is another image each time: leave out random "
            "augmentation, which "
            "the option views does; a run cannot be repeated or resumed exactly otherwise",
            stacklevel=4,
        )
    return ends


def read_labels(reader: ItemReader) -> list[Any] | None:
    """Labels in all items, by reading each once; None if the first has none.

    Raises ValueError if others have none.
    """
    count = len(reader.items)
    if count == 0 or reader.read_label(0) is None:
        return None
    with ThreadPoolExecutor(max(1, reader.processes)) as pool:
        found = map_in_pieces(pool, reader.read_label, range(count), piece=1)  # an item may be slow
        labels = list(tqdm(found, total=count, unit="item", desc="labels", delay=BAR_AFTER))
    missing = [i for i, label in enumerate(labels) if label is None]
    if missing:
        raise ValueError(
            f"{len(missing)} of {count} items have no label, item {missing[0]} first; give "
            "data=(dataset, labels)"
        )
    return [label.item() if isinstance(label, torch.Tensor) else label for label in labels]
