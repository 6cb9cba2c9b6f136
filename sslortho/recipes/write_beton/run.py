"""Write a data set as one .beton file, with a manifest beside it.

An interrupted write leaves nothing that loads.
"""

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from sslortho.data import ImageSet, load_split
from sslortho.data.beton import manifest_path, write_beton
from sslortho.data.broken_images import handle_broken
from sslortho.data.image_folder import scan_folder
from sslortho.data.image_sets import Split
from sslortho.data.names import to_line
from sslortho.data.origins import load_place
from sslortho.recipes.write_beton.options import WriteBetonOptions


def _choose_split(options: WriteBetonOptions) -> Split:
    return "train" if options.split == "train" else "test"


def load(options: WriteBetonOptions) -> ImageSet:
    """Image set of the split; a folder's as paths, none of them opened yet."""
    split, origin = _choose_split(options), options.origin
    if origin is not None:
        data = load_place(str(origin.data_dir), origin, split, check=False)
        if data is None:
            raise ValueError(f"data={options.data!r} has no images for split={options.split!r}")
        return data
    if options.data == "folder":
        data = scan_folder(Path(options.data_dir or ""), split, follow_links=options.follow_links)
    else:
        data = load_split(options.data, options.data_dir, split)
    if data is None:
        raise ValueError(
            f"data_dir={options.data_dir!r} has no folder test/ or val/ for split={options.split!r}"
        )
    return data


class StoppedError(Exception):
    """A signal asked to stop."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"stopped by {signal.Signals(number).name}")


class Stop:
    """SIGTERM and Ctrl-C end the writing at the next image.

    An exception out of a signal's handler could leave a lock of the pool held, and all waiting for it.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    @contextlib.contextmanager
    def listen(self) -> Iterator[None]:
        """Inside, signals are noted."""
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = [signal.signal(number, self._note) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler or signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number

    def check(self) -> None:
        """Raise StoppedError if a signal has come."""
        if self.number is not None:
            raise StoppedError(self.number)


def write(options: WriteBetonOptions, stop: Stop) -> dict[str, Any]:
    """The file and its manifest."""
    out = Path(options.out)
    if out.exists() and not options.overwrite:  # before a folder of a million files is listed
        raise ValueError(f"out={options.out!r} exists already; give another one, or --overwrite")
    data = load(options)
    out.parent.mkdir(parents=True, exist_ok=True)
    if not options.skip_broken:
        handle_broken(data, _choose_split(options))  # before minutes of encoding
    return write_beton(
        data,
        out,
        mode=options.mode,
        max_resolution=options.max_resolution,
        quality=options.quality,
        smart_threshold=options.smart_threshold,
        page_size=options.page_size << 20,
        workers=options.workers,
        skip_broken=options.skip_broken,
        overwrite=options.overwrite,
        source={"data": options.data, "data_dir": options.data_dir, "split": options.split},
        progress=True,
        before_each=stop.check,
    )


def tell(manifest: dict[str, Any], out: Path) -> None:
    """Print what was written."""
    print(
        f"{out}: {manifest['count']} images, {manifest['bytes'] / 1e6:.1f} MB "
        f"({manifest['raw']} raw, {manifest['jpg']} encoded as JPEG, {manifest['kept']} JPEGs kept "
        f"as they were)"
    )
    if skipped := manifest["skipped"]:
        print(
            f"left out {len(skipped)} broken images, {to_line(skipped[0])} first; all are listed in "
            f"{manifest_path(out)}"
        )


def run(options: WriteBetonOptions, program: str) -> int:
    """Write the file and print what was written; the exit code.

    Raises ValueError for a user's mistake.
    """
    stop = Stop()
    try:
        with stop.listen():
            manifest = write(options, stop)
    except StoppedError as error:
        print(f"{program}: {error}; nothing was written", file=sys.stderr)
        return 128 + error.number
    tell(manifest, Path(options.out))
    return 0
