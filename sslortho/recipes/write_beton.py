"""Write a data set as one .beton file: `python scripts/write_beton.py --data_dir D --out B/train.beton`.

An interrupted write leaves nothing that loads. A manifest is left beside the file.
"""

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from sslortho.recipes.write_beton_options import WriteBetonOptions
from sslortho.recipes.command_line import parse_config, user_errors
from sslortho.data import ImageSet, load_split
from sslortho.data.ffcv.writer import manifest_path, write_beton
from sslortho.data.image_folder import scan_folder


def load(config: WriteBetonOptions) -> ImageSet:
    """The images; a folder's as paths, none of them opened yet."""
    split = "train" if config.split == "train" else "test"
    if config.data == "folder":
        data = scan_folder(
            Path(config.data_dir or "").expanduser(), split, follow_links=config.follow_links
        )
    else:
        data = load_split(config.data, config.data_dir, split)
    if data is None:
        raise ValueError(
            f"data_dir={config.data_dir!r} has no folder test/ or val/ for split={config.split!r}"
        )
    return data


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
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number

    def check(self) -> None:
        """Exit if a signal has come."""
        if self.number is not None:
            name = signal.Signals(self.number).name
            print(f"write_beton.py: stopped by {name}; nothing was written", file=sys.stderr)
            sys.exit(128 + self.number)


def write(config: WriteBetonOptions, stop: Stop) -> dict[str, Any]:
    """The file and its manifest."""
    out = Path(config.out).expanduser()
    if out.exists() and not config.overwrite:  # before a folder of a million files is listed
        raise ValueError(f"out={config.out!r} exists already; give another one, or --overwrite")
    data = load(config)
    out.parent.mkdir(parents=True, exist_ok=True)
    return write_beton(
        data,
        out,
        mode=config.mode,
        max_resolution=config.max_resolution,
        quality=config.quality,
        smart_threshold=config.smart_threshold,
        page_size=config.page_size << 20,
        workers=config.workers,
        skip_broken=config.skip_broken,
        overwrite=config.overwrite,
        source={"data": config.data, "data_dir": config.data_dir, "split": config.split},
        progress=True,
        before_each=stop.check,
    )


def tell(manifest: dict[str, Any], out: Path) -> None:
    """What was written, on the terminal."""
    print(
        f"{out}: {manifest['count']} images, {manifest['bytes'] / 1e6:.1f} MB "
        f"({manifest['raw']} raw, {manifest['jpg']} encoded as JPEG, {manifest['kept']} JPEGs kept "
        f"as they were)"
    )
    if skipped := manifest["skipped"]:
        print(
            f"left out {len(skipped)} broken images, {skipped[0]} first; all are listed in "
            f"{manifest_path(out)}"
        )


def main() -> None:
    config = parse_config(WriteBetonOptions)
    stop = Stop()
    with user_errors(config.debug), stop.listen():
        manifest = write(config, stop)
    tell(manifest, Path(config.out).expanduser())


if __name__ == "__main__":
    main()
