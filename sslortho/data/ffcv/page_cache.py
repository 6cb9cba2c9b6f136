"""Pages of a beton in memory of our own, read ahead of need.

In the place of FFCV's, whose threads die of a read error while the loader waits for them for ever, which
takes a short read for a whole page, and which keeps a page from its first use in an epoch to its last.
"""

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

READERS = 8
"""Threads that wait for the disk: as many requests as keep one busy."""

AHEAD = 3
"""Batches whose pages are read before they are due."""


class PageCache:
    """For a sequence of batches, in order; used as a context, with FFCV's name for each step.

    Args:
        path: of the file.
        page_size: bytes.
        pages: the pages that each batch needs.
        pointers, sizes: where each image begins in the file, rising, and its bytes.
    """

    def __init__(
        self,
        path: Path,
        page_size: int,
        pages: Sequence[NDArray[np.int64]],
        pointers: NDArray[np.uint64],
        sizes: NDArray[np.uint64],
    ) -> None:
        self.path, self.page_size = path, page_size
        self.due = [frozenset(batch.tolist()) for batch in pages]
        most = max((len(self._near(step)) for step in range(len(pages))), default=0)
        self.memory = np.empty((most, page_size), np.uint8)
        self.free = list(range(most))
        self.slots: dict[int, int] = {}
        self.reads: dict[int, Future[None]] = {}
        last = max((max(batch) for batch in self.due if batch), default=0)
        self.slot_of_page = np.zeros(last + 1, np.uint32)
        self.state = (self.memory, pointers, sizes, self.slot_of_page)
        """What FFCV's compiled reader of a process cache is given."""

    def _near(self, step: int) -> frozenset[int]:
        return frozenset().union(*self.due[step : step + AHEAD + 1])

    def __enter__(self) -> "PageCache":
        self.file = os.open(self.path, os.O_RDONLY)
        self.file_size = os.fstat(self.file).st_size
        self.pool = ThreadPoolExecutor(READERS, "pages")
        return self

    def __exit__(self, *_: Any) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)
        os.close(self.file)

    def start_batch(self, step: int) -> None:
        """Wait for this batch's pages, and begin to read those of the next ones.

        Earlier batches must be finished with: their pages make room. Raises OSError if a page cannot
        be read.
        """
        near = self._near(step)
        for page in self.slots.keys() - near:
            self.free.append(self.slots.pop(page))
            del self.reads[page]
        for batch in self.due[step : step + AHEAD + 1]:  # the most urgent first
            for page in sorted(batch - self.slots.keys()):
                slot = self.slots[page] = self.slot_of_page[page] = self.free.pop()
                self.reads[page] = self.pool.submit(self._read, page, slot)
        for page in self.due[step]:
            self.reads[page].result()

    def _read(self, page: int, slot: int) -> None:
        offset = page * self.page_size
        size = min(self.page_size, self.file_size - offset)
        target = memoryview(self.memory[slot])[: max(size, 0)]
        done = 0
        while done < size:  # the kernel may read less than it is asked for
            count = os.preadv(self.file, [target[done:]], offset + done)
            if count == 0:
                raise OSError(f"{self.path} has become shorter while it is being read")
            done += count
