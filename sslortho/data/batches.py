"""What every loader yields and obeys."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sslortho.augment.draws import check_seed


@dataclass(frozen=True)
class Batch:
    """Finished, normalised views on the device.

    views: float32 tensors (batch, 3, height, width), one a view; labels: int64 (batch,), -1 where
    the data has none.
    """

    views: tuple[Tensor, ...]
    labels: Tensor


class TrainLoader(Protocol):
    """One rank's share of each epoch's batches, in an order that is the same on every rank."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """The next iteration is of this epoch, from this batch on."""
        ...


class EvaluationLoader(Protocol):
    """One rank's share of a data set, each sample once over all ranks, in order.

    The batches are the same on any number of ranks (see `evaluation_batches`), so what is computed
    of one is too, to the last bit. None is larger than a rank's first; a rank may have none.
    """

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class EpochOrder:
    """Which samples make up which batch, as a pure function of (seed, epoch, step, rank).

    Each epoch is a permutation cut into batches of `batch_size` over all ranks; a remainder smaller
    than a batch is dropped (another one each epoch). Each batch is cut into equal parts for the
    ranks, so the samples of a step are the same on any number of ranks.

    Args:
        size: samples in the data set.
        batch_size: samples a step over all ranks together.
        seed: of the permutations.
        rank, world_size: which part is ours.

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
        """All sample indices in the order of one epoch."""
        key = np.array([self.seed, epoch], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key)).permutation(self.size)

    def steps(self, epoch: int, start_step: int = 0) -> Iterator[NDArray[np.int64]]:
        """Our part of each batch of an epoch, from `start_step` on."""
        permutation = self.permutation(epoch)
        share = self.batch_size // self.world_size
        for step in range(start_step, len(self)):
            start = step * self.batch_size + self.rank * share
            yield permutation[start : start + share]


@dataclass(frozen=True, eq=False)
class PageOrder(EpochOrder):
    """An order that reads a file's pages once or twice an epoch, for data larger than memory.

    The samples are shuffled by page and within each page, and the result is cut into `batch_size`
    equal runs. A batch takes the next sample of every run, and a rank has runs of its own: so it
    needs few pages at a time (one a run), no two ranks read the same page but at the ends of runs,
    and the samples of a step are still the same on any number of ranks.

    Args:
        pages: of each sample, (size,).
    """

    pages: NDArray[np.int64] = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.pages) != self.size:
            raise ValueError(f"pages={len(self.pages)} must be one for each of {self.size} samples")

    def permutation(self, epoch: int) -> NDArray[np.int64]:
        """All samples but the remainder, batch after batch."""
        key = np.array([self.seed, epoch], dtype=np.uint64)
        generator = np.random.Generator(np.random.Philox(key=key))
        _, page = np.unique(self.pages, return_inverse=True)
        rank_of_page = generator.permutation(page.max() + 1)
        order = np.lexsort((generator.random(self.size), rank_of_page[page]))
        runs = order[: len(self) * self.batch_size].reshape(self.batch_size, len(self))
        return runs.T.reshape(-1)


def rank_share(size: int, rank: int, world_size: int) -> range:
    """A contiguous part of range(size), all parts together covering it once."""
    return range(rank * size // world_size, (rank + 1) * size // world_size)


def evaluation_batches(size: int, batch_size: int, rank: int, world_size: int) -> list[range]:
    """This rank's batches of consecutive samples, when all of a data set is read once in order.

    The data set is cut into batches first, the last one perhaps short, and whole batches are dealt:
    which samples share a batch does not depend on the number of ranks.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be 1 or more")
    share = rank_share(-(-size // batch_size), rank, world_size)
    return [range(b * batch_size, min((b + 1) * batch_size, size)) for b in share]
