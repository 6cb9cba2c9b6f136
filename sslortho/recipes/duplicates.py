"""Duplicates and near-duplicates among images: `sslortho duplicates photos.npz`.

Exact duplicates have the same pixels, in whatever files. Near ones have features whose cosine is at least
--threshold; by default it is measured: up to 256 of the images are compressed again, made smaller and cut a
little at the edges, and 95 % of these copies lie above it. Of a file that `sslortho embed` has written both are
found; of a folder, or other data, the exact ones, also between its training and its test images. Groups are
printed and written as CSV: the first image of each, and the others with their cosine to it.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from sslortho.data import ImageSet
    from sslortho.evaluate.feature_files import Features

SAMPLE = 256
"""Images whose changed copies the threshold is measured on."""

SHOWN = 20
"""Groups that are printed; the file has all."""

MANY = 1 / 3
"""Share of the images in groups beyond which the threshold is doubted: collections with so many copies are
rare, and features that do not tell images apart are not."""


@dataclass(frozen=True)
class Member:
    """An image of a group of duplicates."""

    row: int
    """Its number among all images."""
    name: str
    kind: Literal["first", "exact", "near"]
    """exact: the pixels are those of an image before it in the group."""
    similarity: float | None
    """Cosine of its features and those of the group's first image; None without features."""


@dataclass(frozen=True)
class Duplicates:
    """Groups of images that are the same, or nearly."""

    groups: Sequence[Sequence[Member]]
    """By their first image; the members ascending."""
    images: int
    """Number of all images."""
    threshold: float | None
    """Cosine from which on images count as near-duplicates; None: exact ones alone were sought."""

    @property
    def surplus(self) -> int:
        """Images that could go if one of each group stayed."""
        return sum(len(group) - 1 for group in self.groups)

    @property
    def exact(self) -> int:
        """How many of these have the pixels of another image of their group."""
        return sum(member.kind == "exact" for group in self.groups for member in group)


def find_duplicates(
    source: Any,
    *,
    threshold: float | None = None,
    data: str | None = None,
    backbone_from: str | None = None,
) -> Duplicates:
    """Groups of duplicates: the command `duplicates`.

    Args:
        source: file that `embed` has written, or what `load_features` gives: exact and near ones; or images,
            in any form that `pretrain` takes: exact ones. Where a path or name has test images too, they are
            looked at with the training images: their rows follow those, and names begin with the folder,
            "train/" or "test/".
        threshold: cosine from which on images are near-duplicates, above -1 to 1. Default: measured.
        data: path of the images, if it is another one than when the features were made.
        backbone_from: run folder or file of the weights, likewise; they measure the threshold.

    Raises ValueError if images are gone, and if the threshold must be measured and the backbone is gone.
    """
    from sslortho.evaluate.feature_files import Features, holds_features, load_features

    if threshold is not None and not -1 < threshold <= 1:
        raise ValueError(f"threshold={threshold} must be a cosine, above -1 to 1")
    if isinstance(source, str | Path) and holds_features(Path(source).expanduser()):
        source = load_features(source)
    if isinstance(source, Features):
        return _find_both(source, threshold, data, backbone_from)
    for name, value in (("threshold", threshold), ("data", data), ("backbone_from", backbone_from)):
        if value is not None:
            raise ValueError(
                f"{name}={value!r} has no effect on images alone; sslortho embed makes features of them first"
            )
    return _find_exact(_load(source))


def _load(source: Any) -> "dict[str, ImageSet]":
    """Name of a split to its images; the name is empty where there is one split alone."""
    from sslortho.data.loading import load_test_set, load_training_set
    from sslortho.data.objects import load_object
    from sslortho.data.options import PATH, DataOptions
    from sslortho.options import GIVEN

    if not isinstance(source, str | Path):
        return {"": load_object(source, DataOptions(data=GIVEN), "train", needs_labels=False)}
    options = DataOptions(data=str(source))
    train = load_training_set(options)
    if options.data == PATH:  # test images may have other classes
        options = replace(options, labels="none")
    test = load_test_set(options)
    if test is None:
        return {"": train}
    place = Path(options.data_dir or "")
    folder = next((name for name in ("test", "val") if (place / name).is_dir()), "test")
    return {"train/": train, f"{folder}/": test}


def _find_exact(parts: "Mapping[str, ImageSet]") -> Duplicates:
    from sslortho.evaluate.duplicates import Groups, hash_pixels, join_equal
    from sslortho.recipes.embed.run import name_rows

    hashes, names = list[bytes](), list[str]()
    for split, images in parts.items():
        hashes += hash_pixels(images)
        names += [f"{split}{name}" for name in name_rows(images)]
    groups = Groups(len(names))
    join_equal(groups, hashes)
    return Duplicates(_describe(groups.list(), names, hashes, None), len(names), None)


def _find_both(
    features: "Features", threshold: float | None, data: str | None, backbone_from: str | None
) -> Duplicates:
    from sslortho.evaluate.duplicates import Groups, hash_pixels, join_equal, join_similar
    from sslortho.evaluate.neighbours import unit_rows
    from sslortho.recipes.embedded import images_of

    if threshold is not None and backbone_from is not None:
        raise ValueError(
            f"backbone_from={backbone_from!r} has no effect on threshold={threshold}, which is given and not "
            "measured; leave one of them out"
        )
    groups, hashes = Groups(len(features)), None
    try:
        images, _ = images_of(features, data)
    except ValueError as error:
        if threshold is None or data is not None:
            raise ValueError(f"{error}; or give threshold, for near-duplicates alone") from error
        print(f"exact duplicates are not sought: {error}", file=sys.stderr)
    else:
        hashes = hash_pixels(images)
        join_equal(groups, hashes)
        if threshold is None:
            threshold = measure_threshold(features, images, backbone_from)
    join_similar(groups, features.features, threshold)
    unit = unit_rows(features.features)
    found = _describe(groups.list(), features.names, hashes, unit)
    return Duplicates(found, len(features), threshold)


def measure_threshold(
    features: "Features", images: "ImageSet", backbone_from: str | None = None
) -> float:
    """Cosine above which 95 % of mildly changed copies of the images lie.

    Args:
        features, images: as for `find_duplicates`; up to SAMPLE images are taken, spread evenly.
        backbone_from: run folder or file of the weights, if it is another place now.

    Raises ValueError if the backbone is gone, or has other weights now.
    """
    import numpy as np
    import torch

    from sslortho.evaluate.duplicates import choose_threshold, mild_changes
    from sslortho.evaluate.raw_images import embed_images
    from sslortho.recipes.embedded import backbone_of, preprocessing_of

    try:
        network = backbone_of(features, backbone_from)
    except ValueError as error:
        raise ValueError(
            f"the threshold cannot be measured: {error}; or give threshold, such as 0.98"
        ) from error
    chosen = np.unique(np.linspace(0, len(images) - 1, SAMPLE).astype(int)).tolist()
    pixels = [images.open(i) for i in chosen]
    copies = zip(*map(mild_changes, pixels), strict=True)
    preprocess = preprocessing_of(features)
    originals = embed_images(network, preprocess, pixels)
    changed = [embed_images(network, preprocess, list(copy)) for copy in copies]
    return choose_threshold(originals, torch.stack(changed))


def _describe(
    groups: list[list[int]],
    names: Sequence[str],
    hashes: Sequence[bytes] | None,
    unit: "Tensor | None",
) -> list[list[Member]]:
    found = []
    for rows in groups:
        members, seen = [], set[bytes]()
        for row in rows:
            exact = hashes is not None and hashes[row] in seen
            kind = "first" if row == rows[0] else "exact" if exact else "near"
            cosine = None if unit is None else float(unit[rows[0]] @ unit[row])
            members.append(Member(row, names[row], kind, cosine))
            if hashes is not None:
                seen.add(hashes[row])
        found.append(members)
    return found


def write_groups(path: Path, found: Duplicates) -> None:
    """Write the groups as CSV: group, kind, name, row, similarity."""
    import csv
    import io

    from sslortho.atomic import atomic_file

    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("group", "kind", "name", "row", "similarity"))
    for number, group in enumerate(found.groups, 1):
        for member in group:
            cosine = "" if member.similarity is None else f"{member.similarity:.6f}"
            writer.writerow((number, member.kind, member.name, member.row, cosine))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(text.getvalue().encode("utf-8", "surrogateescape"))


def describe_duplicates(found: Duplicates) -> str:
    """The groups, the first SHOWN of them, as lines for a terminal."""
    from sslortho.data.names import to_line

    count = len(found.groups)
    lines = [
        f"{found.images:,} images, {count:,} group{'s' if count != 1 else ''} of duplicates: "
        f"{found.exact:,} exact, which could go if one of each stayed; {found.surplus - found.exact:,} near, "
        "to be looked at first"
    ]
    if found.threshold is not None:
        lines.append(f"near-duplicates: cosine {found.threshold:.4f} and more")
    for number, group in enumerate(found.groups[:SHOWN], 1):
        lines.append(f"group {number}")
        for member in group:
            cosine = "" if member.similarity is None else f"{member.similarity:.4f}"
            lines.append(f"  {member.kind:5}  {cosine:7}  {to_line(member.name)}")
    if count > SHOWN:
        lines.append(f"... and {count - SHOWN:,} more groups")
    inside = sum(map(len, found.groups))
    if found.threshold is not None and inside > MANY * found.images:
        lines.append(
            f"{inside:,} of {found.images:,} images are in groups: unless these are copies, the features do "
            "not tell copies from images that are merely alike; raise --threshold, or train longer"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str], program: str) -> int:
    """The command `duplicates`; the exit code."""
    from sslortho.recipes.command_line import PlainParser, user_errors

    parser = PlainParser(prog=program, description=__doc__)
    parser.add_argument("source", help="file that sslortho embed has written, or images")
    parser.add_argument(
        "--threshold", type=float, help="cosine of near-duplicates; default measured"
    )
    parser.add_argument("--out", type=Path, help="CSV file to write (default none)")
    parser.add_argument("--data", help="path of the images, where they have moved")
    parser.add_argument("--backbone_from", help="run or weights, where they have moved")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    given = parser.parse_args(arguments)
    with user_errors(given.debug, program):
        found = find_duplicates(
            given.source,
            threshold=given.threshold,
            data=given.data,
            backbone_from=given.backbone_from,
        )
        print(describe_duplicates(found))
        if given.out is not None:
            out = given.out.expanduser()
            write_groups(out, found)
            print(out)
    return 0
