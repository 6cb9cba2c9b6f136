"""Write a data set as one .beton file: `python scripts/write_beton.py --data_dir D --out B/train.beton`.

An interrupted write leaves nothing that loads. A manifest is left beside the file.
"""

import signal
import sys
from pathlib import Path
from typing import Any

from sslortho.config import WriteBetonConfig, parse_config, user_errors
from sslortho.data import ImageSet, load_split
from sslortho.data.beton_writer import manifest_path, write_beton
from sslortho.data.image_folder import scan_folder


def load(config: WriteBetonConfig) -> ImageSet:
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


def write(config: WriteBetonConfig) -> dict[str, Any]:
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
    config = parse_config(WriteBetonConfig)
    # a scheduler's way to end a job: as an exception it takes the half-written file along
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        with user_errors(config.debug):
            manifest = write(config)
    except KeyboardInterrupt:
        print("write_beton.py: interrupted; nothing was written", file=sys.stderr)
        sys.exit(130)
    tell(manifest, Path(config.out).expanduser())


if __name__ == "__main__":
    main()
