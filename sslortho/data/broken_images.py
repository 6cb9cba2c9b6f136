"""Broken images: found before training starts, and left out if they are few or the user asks for it."""

import itertools
import json
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import distributed
from torch.distributed import distributed_c10d
from tqdm import tqdm

from sslortho.data.decoding import BrokenImageError
from sslortho.data.first_rank import is_first_rank
from sslortho.data.image_sets import ImageSet, Split
from sslortho.data.names import join_first, to_line
from sslortho.data.prefetch import available_cores, map_in_pieces
from sslortho.data.skip_list import has_begun, keeps_list, read_skip_list, write_skip_list

MOST_CHECKED = 100_000
"""Images up to which each is checked by its header and its end; of a larger set a sample is."""

BAR_AFTER = 5.0
"""Seconds after which a check shows a bar."""

SAMPLED = 100
"""Share of MOST_CHECKED in the sample of a larger set, beside the first image of each class: 1 of 100, so
1,000 images."""

FEW = 0.05
"""Largest share of broken images that are left out unasked."""

LONGEST_CHECK = timedelta(days=1)
"""Time that ranks wait for the first one to decode all images."""

Size = tuple[int, int]
"""(width, height) in pixels."""

Checked = tuple[list[Size], dict[int, BrokenImageError]]
"""Sizes of the images that are whole, and the fault of each other one by its index."""

Images = TypeVar("Images", bound=ImageSet)


def handle_broken(
    data: Images, split: Split, skip: bool | None = False, skip_list: Path | None = None
) -> tuple[Images, list[Size]]:
    """Find broken images before training starts. Every rank must call.

    Args:
        data: images of a split.
        split: its name, for messages and the list.
        skip: leave broken images out. To find them each is decoded once, by the first rank. None: leave out
            those whose header or end is broken, if they are at most FEW of no more than MOST_CHECKED.
        skip_list: file that lists them. A run that has begun keeps its list: see `keeps_list`.

    Returns:
        The images, without those left out, and the sizes of those that were checked: all up to
        MOST_CHECKED.

    Raises:
        ValueError: broken images, unless they are left out; images that broke after the list was made;
            a split without any image that is whole.
    """
    seen: list[Checked] = []
    if skip is not False:
        data = _leave_out(data, split, skip_list, skip is None, seen)
    chosen = choose_checked(data)
    sizes, broken = seen.pop() if seen else _check(data, chosen, thorough=False)
    if broken:
        raise ValueError(
            describe_broken(list(broken.values()), len(chosen), _binding(skip, skip_list))
        )
    return data, sizes


def _binding(skip: bool | None, skip_list: Path | None) -> Path | None:
    """The list that says what a run leaves out; None if nothing is left out."""
    if skip is None and skip_list is not None and not keeps_list(skip_list):
        return None
    return skip_list if skip is not False else None


def choose_checked(data: ImageSet) -> Sequence[int]:
    """Indices of the images that are looked at before training: all up to MOST_CHECKED, else a sample."""
    if len(data) <= MOST_CHECKED:
        return range(len(data))
    first = np.unique(data.labels.numpy(), return_index=True)[1]
    spread = np.linspace(0, len(data) - 1, MOST_CHECKED // SAMPLED).astype(np.int64)
    return np.union1d(first, spread).tolist()


def _check(data: ImageSet, indices: Sequence[int], thorough: bool) -> Checked:
    # PIL itself calls this at the first rare format, when other threads' files can seem broken
    Image.init()

    def attempt(index: int) -> Size | BrokenImageError:
        return _attempt(data, index, thorough)

    sizes: list[Size] = []
    broken: dict[int, BrokenImageError] = {}
    pool = ThreadPoolExecutor(available_cores() if thorough else None)
    bar = tqdm(total=len(indices), unit="image", desc="checking", delay=BAR_AFTER)
    try:
        for index, result in zip(indices, map_in_pieces(pool, attempt, indices), strict=True):
            bar.update()
            if isinstance(result, BrokenImageError):
                broken[index] = result
            else:
                sizes.append(result)
    finally:
        bar.close()
        pool.shutdown(cancel_futures=True)
    return sizes, broken


def _attempt(data: ImageSet, index: int, thorough: bool) -> Size | BrokenImageError:
    try:
        return data.check(index, thorough)
    except BrokenImageError as error:
        return error


def describe_broken(
    broken: Sequence[BrokenImageError], checked: int, skip_list: Path | None = None
) -> str:
    """One line that says how many of the checked images are broken, names the first, and how to go on.

    Args:
        broken: at least one.
        checked: number of images that were looked at.
        skip_list: list of images that are left out, which these are not in; None if none are.
    """
    if len(broken) == 1 and skip_list is None:
        return str(broken[0])
    named = join_first([f"{to_line(e.path)} ({e.reason})" for e in broken])
    number = f"{len(broken)} of {checked} images cannot be read: {named}"
    if skip_list is None:
        return f"{number}; remove or replace them, or leave them out with --skip_broken"
    return (
        f"{number}; they broke after {skip_list} was written, which lists what is left out: restore "
        "them, or remove that file to have it written anew"
    )


def _leave_out(
    data: Images, split: Split, skip_list: Path | None, few: bool, seen: list[Checked]
) -> Images:
    """The images that are whole, by the list of the run or of the first rank.

    seen: receives what a check of all headers found, if this rank made one, of the images that are kept.
    """

    def find() -> dict[str, str]:
        if few:
            return _find_few(data, split, skip_list, seen)
        return _find_or_read(data, split, skip_list)

    broken = _ask_first_rank(find)
    if not broken:
        return data
    kept = [i for i in range(len(data)) if data.name_of(i) not in broken]
    name, reason = next(iter(broken.items()))
    if not kept:
        raise ValueError(
            f"all {len(data)} {split} images are broken, {to_line(name)} ({reason}) first"
        )
    if len(kept) < len(data) and is_first_rank():
        listed = "" if skip_list is None else f"; all are listed in {skip_list}"
        warnings.warn(
            f"{len(data) - len(kept)} of {len(data)} {split} images are broken and left out, "
            f"{to_line(name)} ({reason}) first{listed}",
            stacklevel=4,
        )
    return data.select(torch.tensor(kept))


def _find_or_read(data: ImageSet, split: Split, skip_list: Path | None) -> dict[str, str]:
    """Name and fault of each broken image, from the list of a run that has begun, or by decoding all."""
    listed = read_skip_list(skip_list) if skip_list is not None and keeps_list(skip_list) else {}
    if split in listed:
        return listed[split]
    _, broken = _check(data, range(len(data)), thorough=True)
    found = {data.name_of(i): error.reason for i, error in broken.items()}
    if skip_list is not None and is_first_rank():
        write_skip_list(skip_list, {**_keep_other(skip_list, split, listed), split: found})
    return found


def _find_few(
    data: ImageSet, split: Split, skip_list: Path | None, seen: list[Checked]
) -> dict[str, str]:
    """Name and fault of each image that looks broken, if they are few and it is the files' own fault.

    A run that has begun goes by its list, and leaves out nothing if it has none. `seen` as for `_leave_out`.
    """
    if skip_list is not None and has_begun(skip_list):
        return read_skip_list(skip_list).get(split, {}) if keeps_list(skip_list) else {}
    if skip_list is not None and split == "train" and is_first_rank():
        skip_list.unlink(missing_ok=True)  # of a start that was refused
    if len(data) > MOST_CHECKED:
        return {}
    sizes, broken = _check(data, range(len(data)), thorough=False)
    many = len(broken) > FEW * len(data)
    if not broken or many or any(map(_is_of_system, broken.values())):
        seen.append((sizes, broken))
        return {}
    seen.append((sizes, {}))
    found = {data.name_of(i): error.reason for i, error in broken.items()}
    if skip_list is not None and is_first_rank():
        write_skip_list(skip_list, {**_keep_other(skip_list, split, {}), split: found}, few=True)
    return found


def _is_of_system(error: BrokenImageError) -> bool:
    """Whether the system could not read a file, which may pass: a permission, a network, too many files.

    PIL's own OSErrors for damaged files have no number.
    """
    return isinstance(error.__cause__, OSError) and error.__cause__.errno is not None


def _keep_other(skip_list: Path, split: Split, listed: dict[str, dict[str, str]]) -> dict:
    """Lists of the splits that this run has written already. Training comes first, so a run that begins with
    it drops the list of an earlier one."""
    if listed or split == "train" or not skip_list.exists():
        return listed
    return read_skip_list(skip_list)


_asked = itertools.count()


def _ask_first_rank(find: Callable[[], dict[str, str]]) -> dict[str, str]:
    """The first rank's result of `find`, on every rank; without a process group this process's own.

    Through the store of the process group and not by a collective: the first rank of a machine may be
    loading while the others wait for it at a barrier.

    Raises ValueError on every other rank if the first raises anything.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return find()
    store = distributed_c10d._get_default_store()
    key = f"sslortho/broken_images/{next(_asked)}"
    if distributed.get_rank() == 0:
        try:
            found = find()
        except Exception as error:  # the others wait
            store.set(key, json.dumps({"error": str(error)}))
            raise
        store.set(key, json.dumps({"found": found}))
        return found
    store.wait([key], LONGEST_CHECK)
    answer = json.loads(store.get(key))
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer["found"]
