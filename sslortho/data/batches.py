"""Batches, the protocols of the loaders that yield them, and the order of the samples."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sslortho.augment.draws.random_numbers import check_seed


@dataclass(frozen=True)
class Batch:
    """Finished, normalised views on the device.

    Attributes:
        views: a float32 tensor (batch, 3, height, width) for each view.
        labels: int64 (batch,); -1 for an image without a label.
    """

    views: tuple[Tensor, ...]
    labels: Tensor


class TrainLoader(Protocol):
    """One rank's share of each epoch's batches, in one order for all ranks."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Let the next iteration be of this epoch, from batch `start_step` on."""
        ...


class EvaluationLoader(Protocol):
    """One rank's share of a data set, each sample once over all ranks, in order.

    The batches are the same on any number of ranks (see `evaluation_batches`), and so is what is
    computed of a batch, to the last bit. A rank's first batch is its largest. A rank may have none.
    """

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class EpochOrder:
    """Samples of each batch, as a pure function of (seed, epoch, step, rank).

    Each epoch is a permutation cut into batches of `batch_size` over all ranks. A remainder smaller
    than a batch is dropped; it is another one each epoch. Each batch is cut into equal parts for the
    ranks, so the samples of a step are the same on any number of ranks.

    Args:
        size: samples in the data set.
        batch_size: samples of a step over all ranks together.
        seed: of the permutations, 0 to 2**32 - 1.
        rank, world_size: number of this rank, from 0, and of all ranks.

    Raises:
        ValueError: a batch larger than the data, or one that does not divide among the ranks.
    """

    size: int
    batch_size: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank={self.rank} must be from 0 to world_size={self.world_size} - 1")
        if self.batch_size < 1 or self.batch_size % self.world_size:
            raise ValueError(
                f"a batch of {self.batch_size} does not divide among {self.world_size} ranks; "
                "choose a multiple"
            )
        if self.batch_size > self.size:
            raise ValueError(
                f"batch_size={self.batch_size} is larger than the data ({self.size} images); "
                "choose a smaller one"
            )

    def __len__(self) -> int:
        return self.size // self.batch_size

    def permutation(self, epoch: int) -> NDArray[np.int64]:
        """All sample indices in the order of one epoch, (size,)."""
        key = np.array([self.seed, epoch], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key)).permutation(self.size)

    def steps(self, epoch: int, start_step: int = 0) -> Iterator[NDArray[np.int64]]:
        """This rank's part of each batch of an epoch, from batch `start_step` on."""
        permutation = self.permutation(epoch)
        share = self.batch_size // self.world_size
        for step in range(start_step, len(self)):
            start = step * self.batch_size + self.rank * share
            yield permutation[start : start + share]


@dataclass(frozen=True, eq=False)
class PageOrder(EpochOrder):
    """Order that reads each page of a file once or twice an epoch, for data larger than memory.

    The samples are shuffled by page and within each page, and the result is cut into `batch_size`
    equal runs. A batch takes the next sample of every run, and each rank has runs of its own. So a
    rank needs few pages at a time, one for each of its runs, and two ranks read the same page only at
    the ends of runs. The samples of a step are still the same on any number of ranks.

    Args:
        size, batch_size, seed, rank, world_size: see `EpochOrder`, also for what raises.
        pages: page of each sample, (size,).
    """

    pages: NDArray[np.int64] = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.pages) != self.size:
            raise ValueError(f"pages={len(self.pages)} must be one for each of {self.size} samples")

    def permutation(self, epoch: int) -> NDArray[np.int64]:
        """All samples except the remainder, batch after batch."""
        key = np.array([self.seed, epoch], dtype=np.uint64)
        generator = np.random.Generator(np.random.Philox(key=key))
        _, page = np.unique(self.pages, return_inverse=True)
        rank_of_page = generator.permutation(page.max() + 1)
        order = np.lexsort((generator.random(self.size), rank_of_page[page]))
        runs = order[: len(self) * self.batch_size].reshape(self.batch_size, len(self))
        return runs.T.reshape(-1)


def rank_share(size: int, rank: int, world_size: int) -> range:
    """This rank's contiguous part of range(size); the parts of all ranks cover it once."""
    return range(rank * size // world_size, (rank + 1) * size // world_size)


def evaluation_batches(size: int, batch_size: int, rank: int, world_size: int) -> list[range]:
    """This rank's batches of consecutive samples, for reading a data set once and in order.

    The data set is cut into batches first, the last one perhaps short. Then whole batches are dealt to
    the ranks, so which samples share a batch does not depend on the number of ranks.

    Raises ValueError for a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be 1 or more")
    share = rank_share(-(-size // batch_size), rank, world_size)
    return [range(b * batch_size, min((b + 1) * batch_size, size)) for b in share]
