"""The input of every pipeline, and the interface of one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sslortho.augment import ViewSpec
from sslortho.data import ImageArray

from .rendering import Rendered

FAST_PASSES = 4
"""Passes over the images in a round of a pipeline of threads; one of processes makes one pass."""


@dataclass(frozen=True)
class Workload:
    """Input of every pipeline.

    paths: image files. pairs: pairs of views in a pass, a multiple of batch_size * workers; images
    may repeat. array: the same images in memory, if they are small. beton: a folder whose
    train.beton holds the same images, if a pipeline needs it. folder: where a pipeline may write what
    it reads; it is deleted after the run.
    """

    paths: tuple[str, ...]
    pairs: int
    specs: tuple[ViewSpec, ViewSpec]
    batch_size: int
    workers: int
    array: ImageArray | None = None
    beton: Path | None = None
    folder: Path | None = None

    def places(self, passes: int = 1) -> Tensor:
        """Index of the image that each pair is made of: int64 (passes * pairs,)."""
        return torch.arange(passes * self.pairs) % len(self.paths)


class Pipeline(Protocol):
    """An object that can be timed."""

    def run(self) -> int:
        """One round; returns the number of pairs made."""
        ...


class Batches:
    """A pipeline around a loader of batches; checks and measures the views of the first round.

    Args:
        loader: yields batches.
        views_of: takes both views out of a batch.
        spec: of a view; its size and its normalisation.
    """

    def __init__(
        self, loader: Iterable[Any], views_of: Callable[[Any], Sequence[Tensor]], spec: ViewSpec
    ) -> None:
        self.loader = loader
        self.views_of = views_of
        self.crop_size = spec.crop_size
        self.rendered = Rendered(spec)
        self.rounds = 0

    def run(self) -> int:
        """One epoch; the next one each time if the loader has `set_epoch`. Returns its pairs."""
        if set_epoch := getattr(self.loader, "set_epoch", None):
            set_epoch(self.rounds)
        count = 0
        for batch in self.loader:
            views = self.views_of(batch)
            if self.rounds == 0:
                self._check(views)
            count += len(views[0])
        self.rounds += 1
        return count

    def settle(self) -> None:
        """Wait until the loader does nothing, if it works on after the last batch."""
        if settle := getattr(self.loader, "settle", None):
            settle()

    def _check(self, views: Sequence[Tensor]) -> None:
        shape = (3, self.crop_size, self.crop_size)
        for view in views:
            assert view.shape[1:] == shape, (tuple(view.shape), shape)
            assert view.dtype == torch.float32, view.dtype
        assert len(views) == 2
        self.rendered.add(views)
