"""Batches of an epoch, of which the next one is made before the GPU has done with this one."""

from collections.abc import Iterator

from sslortho.data import Batch


class BatchesAhead:
    """The batches of a loader, one after the other.

    Args:
        batches: what the loader yields.
        number: how many are needed; no more are asked for.
        ahead: whether `prepare` does anything. On a CPU, which draws and trains by the same cores, nothing
            is gained.
    """

    def __init__(self, batches: Iterator[Batch], number: int, ahead: bool) -> None:
        self.batches = batches
        self.left = number
        self.ahead = ahead
        self.waiting: list[Batch] = []

    def prepare(self) -> None:
        """Make the next batch, if there is to be one: on a GPU, put its work into the queue."""
        if self.ahead and not self.waiting and self.left:
            self.waiting.append(next(self.batches))

    def take(self, count: int) -> Iterator[Batch]:
        """The next `count` batches, each made when it is asked for unless it waits already."""
        for _ in range(count):
            batch = self.waiting.pop() if self.waiting else next(self.batches)
            self.left -= 1
            yield batch
            del batch  # views are large
