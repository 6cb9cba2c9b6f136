"""Duplicates among images: the same pixels, and features that are nearly the same."""

import hashlib
import io
import math
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from sslortho.data import ImageSet
from sslortho.data.prefetch import available_cores, map_in_pieces
from sslortho.evaluate.neighbours import BLOCK, unit_rows

QUALITY = 75
"""JPEG quality of a mild change: that of PIL and of most web pages."""

SHRINK, CUT = 0.8, 0.02
"""Share of the sides that a resized copy keeps, and that a cropped copy loses on each side."""

MANY_PAIRS = 10
"""Pairs for each image from which on there is a warning: groups of 20 copies have 9.5."""


def hash_pixels(images: ImageSet) -> list[bytes]:
    """Hash of the pixels and shape of each image, decoded: the same picture in another file has the same.

    Raises ValueError, naming the image, for one that cannot be decoded.
    """

    def hash_one(index: int) -> bytes:
        pixels = images.open(index)
        return hashlib.blake2b(pixels.tobytes(), salt=repr(pixels.shape).encode()[:16]).digest()

    with ThreadPoolExecutor(available_cores()) as pool:
        return list(map_in_pieces(pool, hash_one, range(len(images))))


class Groups:
    """Sets of numbers from 0 that are joined pair by pair."""

    def __init__(self, count: int) -> None:
        self._first = np.arange(count)  # of each number, the smallest of its set

    def find(self, member: int) -> int:
        """Smallest number of the set that a number is in."""
        return int(self._first[member])

    def join(self, pairs: ArrayLike) -> None:
        """Make one set of the two that the numbers of each pair are in; pairs: whole numbers (m, 2)."""
        pairs = np.asarray(pairs, np.int64).reshape(-1, 2)
        first = self._first
        while len(pairs):
            ends = first[pairs]
            pairs = pairs[ends[:, 0] != ends[:, 1]]
            low, high = np.sort(first[pairs], axis=1).T
            np.minimum.at(first, high, low)  # what this leaves apart is joined in the next round
            while not np.array_equal(shorter := first[first], first):
                first[:] = shorter

    def list(self) -> list[list[int]]:
        """Sets of two or more, ascending, by their smallest number."""
        order = np.argsort(self._first, kind="stable")
        _, starts = np.unique(self._first[order], return_index=True)
        sets = np.split(order, starts[1:])
        return [members.tolist() for members in sets if len(members) > 1]


def join_equal(groups: Groups, hashes: Sequence[bytes]) -> None:
    """Join the images whose hashes are equal."""
    first: dict[bytes, int] = {}
    groups.join([(first.setdefault(value, i), i) for i, value in enumerate(hashes)])


@torch.no_grad()
def join_similar(groups: Groups, features: Tensor, threshold: float) -> None:
    """Join the images whose features have a cosine of `threshold` or more.

    All pairs are compared, a block at a time: of 50,000 images 1.25 billion cosines. Images that are joined
    by others between them are of one group.

    Args:
        groups: of n numbers; changed.
        features: (n, dim), on any device.
        threshold: above -1.

    Warns as soon as there are more than MANY_PAIRS times as many pairs as images, and more to compare.

    Raises ValueError for features that are not finite.
    """
    unit = unit_rows(features)
    if not torch.isfinite(unit).all():
        raise ValueError("features must be finite to be compared")
    found, count = 0, len(unit)
    for done, pairs in _similar_pairs(unit, threshold):
        before, found = found, found + len(pairs)
        groups.join(pairs.numpy())
        if before <= MANY_PAIRS * count < found and done < count:
            warnings.warn(
                f"{found:,} pairs among {done:,} of {count:,} images have a cosine of {threshold:.4f} or "
                "more: the features hardly tell images apart, or the threshold is low; stop it, and raise "
                "--threshold or train longer",
                stacklevel=2,
            )


def _similar_pairs(unit: Tensor, threshold: float) -> Iterator[tuple[int, Tensor]]:
    """Pairs of rows with a cosine of `threshold` or more, int64 (m, 2) on the CPU, in parts.

    Each part comes with the number of rows that have been compared with all after them. A part has as many
    pairs as there are rows, or more: to join it takes time for each row too.
    """
    rows = max(1, math.isqrt(BLOCK))
    waiting: list[Tensor] = []
    for first in range(0, len(unit), rows):
        block = unit[first : first + rows]
        for second in range(
            first, len(unit), rows
        ):  # square: few rows would be compared as fast as read
            cosines = block @ unit[second : second + rows].mT
            one, other = (cosines >= threshold).nonzero(as_tuple=True)
            one, other = one + first, other + second
            keep = other > one
            waiting.append(torch.stack([one[keep], other[keep]], dim=1).cpu())
        done = min(first + rows, len(unit))
        if sum(map(len, waiting)) >= len(unit) or done == len(unit):
            yield done, torch.cat(waiting)
            waiting.clear()


def mild_changes(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Copies of an image as they get about: compressed again, made smaller, with a strip cut off.

    Args:
        pixels: (height, width, 3).

    Returns the three, (height, width, 3) each, of its own size.
    """
    height, width, _ = pixels.shape
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    small = image.resize(
        (max(1, round(SHRINK * width)), max(1, round(SHRINK * height))), Image.Resampling.BICUBIC
    )
    # at least a pixel, of an image that has more than two
    left, top = (min(max(1, round(CUT * side)), (side - 1) // 2) for side in (width, height))
    cut = image.crop((left, top, width - left, height - top))
    return [np.array(Image.open(file).convert("RGB")), np.array(small), np.array(cut)]


def choose_threshold(originals: Tensor, copies: Tensor, found: float = 0.95) -> float:
    """Cosine above which a share `found` of mildly changed copies lies.

    Args:
        originals: features (n, dim).
        copies: features (copies, n, dim) of their copies.
        found: share of the copies, from 0 to 1.
    """
    unit = unit_rows(originals)
    cosines = torch.stack([(unit * unit_rows(part)).sum(dim=1) for part in copies])
    return float(torch.quantile(cosines.flatten(), 1 - found))
