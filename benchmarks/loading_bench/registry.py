"""The pipelines by name, and the packages that they need."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import distributions
from importlib.util import find_spec

from sslortho.data import require_ffcv
from sslortho.options import nearest

from . import (
    albumentations_pipeline,
    bounds,
    dali_pipeline,
    kornia_pipeline,
    libraries,
    ours,
    shards,
    spdl_pipeline,
)
from .workload import Pipeline, Workload


@dataclass(frozen=True)
class Kind:
    """A pipeline that `--pipelines` can name.

    create: builds it. what: its description in the report. needs: packages that it imports. beton:
    whether it reads a beton.
    """

    create: Callable[[Workload], Pipeline]
    what: str
    needs: tuple[str, ...] = ()
    beton: bool = False


PIPELINES: dict[str, Kind] = {
    # pipelines of processes first: forking is safe while this process has no threads
    "torchvision_pil": Kind(
        libraries.create_torchvision_pil, "PIL, torchvision.transforms with its blur, DataLoader"
    ),
    "torchvision_v2": Kind(
        libraries.create_torchvision_v2,
        "torchvision.io, torchvision.transforms.v2 on uint8 tensors, DataLoader",
    ),
    "lightly": Kind(
        libraries.create_lightly,
        "LightlyDataset, BYOLTransform (lightly's for Barlow Twins; bilinear crop, PIL blur) as "
        "shipped, DataLoader",
        needs=("lightly",),
    ),
    "kornia": Kind(
        kornia_pipeline.create_kornia,
        "torchvision.io, kornia's crop image by image, then its augmentations of each batch, all in "
        "DataLoader's processes",
        needs=("kornia",),
    ),
    "original": Kind(
        libraries.create_original,
        "as facebookresearch/barlowtwins: PIL, torchvision.transforms with PIL's blur, DataLoader",
    ),
    "albumentationsx": Kind(
        albumentations_pipeline.create_albumentations,
        "OpenCV, AlbumentationsX (area average where a crop shrinks, OpenCV's bicubic where it grows; "
        "jitter on 8 bits), DataLoader",
        needs=("albumentationsx",),
    ),
    "webdataset": Kind(
        shards.create_webdataset,
        "WebDataset's tars, batches made in WebLoader's processes; the transform of `original`",
        needs=("webdataset",),
    ),
    "litdata": Kind(
        shards.create_litdata,
        "LitData's chunks, StreamingDataLoader; the transform of `original`",
        needs=("litdata",),
    ),
    "ffcv_stock": Kind(
        libraries.create_ffcv_stock,
        "crops and flips only, no colour: ffcv.Loader, a decoder for each view, two decodes",
        needs=("ffcv",),
        beton=True,
    ),
    "dali": Kind(
        dali_pipeline.create_dali,
        "DALI's CPU operators, one decode (contrast about the middle level, hue a rotation in YIQ, "
        "jitter in one order)",
        needs=("dali",),
    ),
    "spdl": Kind(
        spdl_pipeline.create_spdl,
        "SPDL's threads; in them OpenCV and the transform of `albumentationsx`",
        needs=("spdl", "albumentationsx"),
    ),
    "spdl_io": Kind(
        spdl_pipeline.create_spdl_io,
        "SPDL's threads; spdl-io decodes and crops both views by FFmpeg's filters (bicubic in YUV), "
        "AlbumentationsX colours",
        needs=("spdl_io", "albumentationsx"),
    ),
    "ours_folder": Kind(ours.create_ours_folder, "ViewLoader on the image files"),
    "ours_beton": Kind(ours.create_ours_beton, "ViewLoader on a beton", beton=True),
    "ours_beton_ffcv": Kind(
        ours.create_ours_beton_ffcv,
        "ViewLoader on a beton that FFCV reads and decodes",
        needs=("ffcv",),
        beton=True,
    ),
    "ours_parts": Kind(
        bounds.create_ours_parts,
        "what decoding, two crops and colour of ours_beton, each timed alone, add up to; they hand "
        "each other 8-bit images in memory, and ours_beton spares some of that",
        beton=True,
    ),
    "decode_floor": Kind(bounds.create_decode_floor, "the files decoded, no views"),
    "decode_floor_beton": Kind(
        bounds.create_decode_floor_beton,
        "the beton's JPEGs decoded, no views",
        beton=True,
    ),
}

SMALL: dict[str, Kind] = {
    "torchvision_pil": Kind(
        libraries.create_torchvision_pil, "PIL images, torchvision.transforms, DataLoader"
    ),
    "torchvision_v2": Kind(
        libraries.create_torchvision_v2, "torchvision.transforms.v2 on uint8 tensors, DataLoader"
    ),
    "kornia": Kind(
        kornia_pipeline.create_kornia,
        "kornia's augmentations of each batch, crop too, in DataLoader's processes",
        needs=("kornia",),
    ),
    "ours_tensor": Kind(ours.create_ours_tensor, "TensorLoader"),
}
"""The pipelines of --small: all read images in memory."""

INSTALL = {
    "lightly": "pip install lightly",
    "kornia": "pip install kornia",
    "ffcv": "apt-get install build-essential pkg-config libturbojpeg0-dev libopencv-dev, then "
    "pip install 'sslortho[ffcv]'",
    "albumentationsx": "pip install albumentationsx opencv-python-headless (AGPL-3.0)",
    "webdataset": "pip install webdataset",
    "litdata": "pip install litdata",
    "dali": "pip install nvidia-dali-cuda120 (x86-64 or ARM Linux; needs no GPU)",
    "spdl": "pip install spdl",
    "spdl_io": "apt-get install ffmpeg, then pip install spdl",
}

MODULES = {
    "albumentationsx": ("albumentations", "cv2"),
    "dali": ("nvidia.dali",),
    "spdl": ("spdl.pipeline",),
    "spdl_io": ("spdl.pipeline", "spdl.io"),
}
"""Modules of a package that are not named as it is."""


def choose_pipelines(names: str | None, kinds: dict[str, Kind]) -> dict[str, Kind]:
    """The kinds with the comma-separated `names`, in the order of `kinds`; all for None.

    Raises ValueError for an unknown name.
    """
    if names is None:
        return kinds
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in kinds:
            raise ValueError(
                f"pipelines={names!r}: {name!r} is not one of {', '.join(kinds)}"
                f"{nearest(name, kinds)}"
            )
    return {name: kind for name, kind in kinds.items() if name in chosen}


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package above it is missing
        return False


def _works(package: str) -> bool:
    """Whether a package can be used, where its presence does not tell."""
    if package == "ffcv":
        try:
            require_ffcv()
        except ValueError:
            return False
    if package == "albumentationsx":  # albumentations is an older package of other arguments
        return bool(list(distributions(name="albumentationsx")))
    if package == "spdl_io":
        import spdl.io  # pyright: ignore[reportMissingImports]

        try:
            spdl.io.decode_config()
        except RuntimeError:  # FFmpeg's libraries are missing
            return False
    return True


@functools.cache
def find_missing(package: str) -> str | None:
    """The command that installs a package; None if it loads."""
    present = all(_is_there(module) for module in MODULES.get(package, (package,)))
    return None if present and _works(package) else INSTALL[package]


def split_missing(chosen: dict[str, Kind]) -> tuple[dict[str, Kind], dict[str, str]]:
    """The kinds that can run, and for each other one the command that installs what it needs."""
    skipped = {}
    for name, kind in chosen.items():
        missing = [hint for package in kind.needs if (hint := find_missing(package))]
        if missing:
            skipped[name] = "; ".join(missing)
            print(f"{name} is left out: {skipped[name]}", flush=True)
    return {name: kind for name, kind in chosen.items() if name not in skipped}, skipped
