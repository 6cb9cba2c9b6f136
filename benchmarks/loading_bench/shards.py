"""Pipelines that read JPEGs from few large files: WebDataset's and LitData's.

Neither makes views. Both get the transform of `original`, which is torchvision's fastest here. The
packages are imported where they are used: they may be missing.
"""

# pyright: reportMissingImports=false

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from .libraries import PairOfViews, create_original_transform
from .workload import Batches, Pipeline, Workload

SHARDS_A_WORKER = 2
"""WebDataset shuffles shards and gives every process the same number of them."""


def _make_folder(work: Workload, name: str) -> Path:
    assert work.folder is not None
    folder = work.folder / name
    folder.mkdir()
    return folder


def decode_with_pil(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


class BytesToViews:
    """Makes a pair of views, and label 0, of the bytes of a JPEG."""

    def __init__(self, work: Workload) -> None:
        self.pair = PairOfViews(*map(create_original_transform, work.specs))

    def __call__(self, content: bytes) -> tuple[Any, int]:
        return self.pair(decode_with_pil(content)), 0


def write_tars(work: Workload, folder: Path) -> list[str]:
    """Write the images of a pass as WebDataset's shards; returns their paths."""
    import webdataset

    places, shards = work.places().tolist(), SHARDS_A_WORKER * work.workers
    paths = [str(folder / f"{i:04d}.tar") for i in range(shards)]
    for i, path in enumerate(paths):
        with webdataset.TarWriter(path) as writer:
            for j, place in enumerate(places[i::shards]):
                content = Path(work.paths[place]).read_bytes()
                writer.write({"__key__": f"{i:04d}{j:08d}", "jpg": content})
    return paths


def create_webdataset(work: Workload) -> Pipeline:
    """WebDataset's documented form: batches are made in the processes, WebLoader passes them on."""
    import webdataset

    paths = write_tars(work, _make_folder(work, "webdataset"))
    images = (
        webdataset.WebDataset(paths, shardshuffle=len(paths))
        .shuffle(1000)
        .to_tuple("jpg")
        .map_tuple(BytesToViews(work))
        .map(_take_first)
        .batched(work.batch_size, partial=False, collation_fn=_collate)
    )
    loader: Any = webdataset.WebLoader(
        images, batch_size=None, num_workers=work.workers, persistent_workers=True
    )
    return Batches(loader, lambda batch: batch[0], work.specs[0])


def _take_first(sample: tuple[Any, ...]) -> Any:
    return sample[0]


def _collate(samples: list[Any]) -> Any:
    from torch.utils.data import default_collate

    return default_collate(samples)


def write_chunks(work: Workload, folder: Path) -> None:
    """Write the images of a pass as LitData's chunks of 64 MB."""
    from litdata.streaming.writer import BinaryWriter  # what litdata.optimize writes with

    writer = BinaryWriter(str(folder), chunk_bytes="64MB")
    for i, place in enumerate(work.places().tolist()):
        writer[i] = Path(work.paths[place]).read_bytes()
    writer.done()
    writer.merge()


def create_litdata(work: Workload) -> Pipeline:
    import litdata

    folder = _make_folder(work, "litdata")
    write_chunks(work, folder)
    transform: Callable[[Any], Any] = BytesToViews(work)
    images = litdata.StreamingDataset(
        str(folder), shuffle=True, drop_last=True, transform=transform
    )
    loader = litdata.StreamingDataLoader(
        images,
        batch_size=work.batch_size,
        num_workers=work.workers,
        drop_last=True,
        persistent_workers=True,
    )
    return Batches(loader, lambda batch: batch[0], work.specs[0])
