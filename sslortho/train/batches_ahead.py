"""Batches of an epoch, of which the next one is made before the GPU has done with this one."""

from collections.abc import Iterator

from sslortho.data import Batch


class BatchesAhead:
    """The batches of a loader, one after the other.

    Args:
        batches: what the loader yields.
        number: how many are needed; no more are asked for. ValueError if there are fewer.
        ahead: whether `prepare` does anything. On a CPU, which draws and trains by the same cores, nothing
            is gained.
    """

    def __init__(self, batches: Iterator[Batch], number: int, ahead: bool) -> None:
        self.batches = batches
        self.number = self.left = number
        self.ahead = ahead
        self.waiting: list[Batch] = []

    def prepare(self) -> None:
        """Make the next batch, if there is to be one: on a GPU, put its work into the queue."""
        if self.ahead and not self.waiting and self.left:
            self.waiting.append(self._next())

    def take(self, count: int) -> Iterator[Batch]:
        """The next `count` batches, each made when it is asked for unless it waits already."""
        for _ in range(count):
            batch = self.waiting.pop() if self.waiting else self._next()
            self.left -= 1
            yield batch
            del batch  # views are large

    def _next(self) -> Batch:
        try:
            return next(self.batches)
        except StopIteration:
            raise ValueError(
                f"the loader ended after {self.number - self.left} of the {self.number} batches that this "
                "epoch still needed; its __len__ must be the number that it yields"
            ) from None
