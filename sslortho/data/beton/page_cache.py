"""Cache of a beton's pages, read ahead of need.

FFCV's own process cache has three faults, and is not used here either: a read error kills its threads
while the loader waits for ever, a short read counts as a whole page, and a page is kept from its first use
in an epoch to its last.
"""

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

READERS = 8
"""Threads that read; 8 requests at a time keep a disk busy."""

AHEAD = 3
"""Batches, beyond the current one, whose pages are read."""


class PageCache:
    """Pages for a sequence of batches, in order; a context manager.

    Args:
        path: of the file.
        page_size: bytes.
        pages: int64 arrays, the pages that each batch needs.

    Attributes:
        memory: uint8 (slots, page_size), the pages that are held.
        slot_of_page: uint32, by page its slot.
    """

    def __init__(self, path: Path, page_size: int, pages: Sequence[NDArray[np.int64]]) -> None:
        self.path, self.page_size = path, page_size
        self.due = [frozenset(batch.tolist()) for batch in pages]
        most = max((len(self._near(step)) for step in range(len(pages))), default=0)
        self.memory = np.empty((most, page_size), np.uint8)
        self.free = list(range(most))
        self.slots: dict[int, int] = {}
        self.reads: dict[int, Future[None]] = {}
        last = max((max(batch) for batch in self.due if batch), default=0)
        self.slot_of_page = np.zeros(last + 1, np.uint32)

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
        """Wait for this batch's pages, and start to read those of the next ones.

        Earlier batches must be finished: their pages are overwritten. Raises OSError if a page cannot
        be read.
        """
        near = self._near(step)
        for page in self.slots.keys() - near:
            self.free.append(self.slots.pop(page))
            del self.reads[page]
        for batch in self.due[step : step + AHEAD + 1]:  # the most urgent first
            for page in sorted(batch - self.slots.keys()):
                slot = self.slots[page] = self.slot_of_page[page] = self.free.pop()
                self.reads[page] = self.pool.submit(self._fetch, page, slot)
        for page in self.due[step]:
            self.reads[page].result()

    def read(self, start: int, size: int) -> NDArray[np.uint8]:
        """Bytes of the file, all within one page of the current batch or a later one that is held."""
        page, offset = divmod(start, self.page_size)
        return self.memory[self.slot_of_page[page], offset : offset + size]

    def _fetch(self, page: int, slot: int) -> None:
        offset = page * self.page_size
        size = min(self.page_size, self.file_size - offset)
        target = memoryview(self.memory[slot])[: max(size, 0)]
        done = 0
        while done < size:  # the kernel may read less than it is asked for
            count = os.preadv(self.file, [target[done:]], offset + done)
            if count == 0:
                raise OSError(f"{self.path} has become shorter while it is being read")
            done += count
