"""Nearest neighbours of images: `sslortho neighbours photos.npz holiday.jpg 17`.

Of each query, the images of a file that `sslortho embed` has written whose features are most similar (by
cosine), nearest first: a table, and a picture. A query is an image file, which is embedded as the images of the
file were, or a row of the file, by its number or its name.
"""

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslortho.options import nearest

if TYPE_CHECKING:
    from torch import Tensor

    from sslortho.evaluate.feature_files import Features

ROWS = 4096
"""Rows of features that are compared at a time, so that a file that is mapped stays on the disk."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Images nearest to some queries, nearest first."""

    queries: Sequence[str]
    """q names."""
    indices: "Tensor"
    """int64 (q, k): rows of the features."""
    similarities: "Tensor"
    """float32 (q, k): cosines."""
    names: Sequence[Sequence[str]]
    """Names of the rows, (q, k)."""


def _read_query(query: Any, features: "Features", rows: dict[str, int]) -> int | Any:
    """Number of the row that a query means; the query itself if it is an image.

    Raises ValueError for text that is neither.
    """
    if isinstance(query, numbers.Integral) or (isinstance(query, str) and query.isdecimal()):
        row = int(query)
        if not 0 <= row < len(features):
            raise ValueError(f"query={query!r} must be a row from 0 to {len(features) - 1}")
        return row
    if isinstance(query, str) and query in rows:
        return rows[query]
    if isinstance(query, str) and not Path(query).is_file():
        raise ValueError(
            f"query={query!r} is no file, and no name in the features{nearest(query, rows)}"
        )
    return query


def find_neighbours(
    features: "Features | str | Path",
    queries: Any,
    k: int = 8,
    *,
    backbone_from: str | None = None,
) -> Neighbours:
    """Images nearest to each query: the command `neighbours`.

    Args:
        features: file that `embed` has written, or what `load_features` gives.
        queries: one or a list: rows by number or name, and images as `sslortho.Preprocessing` takes them. A
            row is not its own neighbour.
        k: neighbours of each.
        backbone_from: run folder or file of the weights, if it is another place now; for images.

    Raises ValueError for what is no query, and a backbone that is gone or has other weights.
    """
    from sslortho.evaluate.feature_files import Features, load_features
    from sslortho.evaluate.neighbours import check_k

    table = features if isinstance(features, Features) else load_features(features)
    check_k(k)
    listed = list(queries) if isinstance(queries, list | tuple) else [queries]
    rows = {name: i for i, name in enumerate(table.names)}
    read = [_read_query(query, table, rows) for query in listed]
    if not read:
        raise ValueError("queries holds none; give one or more")
    if backbone_from is not None and all(isinstance(query, int) for query in read):
        raise ValueError(
            f"backbone_from={str(backbone_from)!r} has no effect on queries that are rows of the features; "
            "leave it out"
        )
    own = [query if isinstance(query, int) else -1 for query in read]
    indices, similarities = _search(table, _embed_queries(table, read, backbone_from), own, k)
    names = [
        table.names[row] if row >= 0 else str(query) for row, query in zip(own, read, strict=True)
    ]
    found: list[list[str]] = [[table.names[int(i)] for i in row] for row in indices.tolist()]
    return Neighbours(names, indices, similarities, found)


def _embed_queries(table: "Features", read: list[Any], backbone_from: str | None) -> "Tensor":
    """Features (q, dim) of the queries."""
    import torch

    from sslortho.evaluate.raw_images import embed_images
    from sslortho.recipes.embedded import backbone_of, preprocessing_of

    images = [query for query in read if not isinstance(query, int)]
    embedded: list[Tensor] = []
    if images:
        network = backbone_of(table, backbone_from)
        embedded = list(embed_images(network, preprocessing_of(table), images).cpu())
    remaining = iter(embedded)
    return torch.stack(
        [table.features[q].float() if isinstance(q, int) else next(remaining) for q in read]
    )


def _search(
    table: "Features", queries: "Tensor", own: list[int], k: int
) -> tuple["Tensor", "Tensor"]:
    """Rows and cosines (q, k) of the nearest features; a query's own row is left out."""
    import torch

    from sslortho.evaluate.neighbours import NeighbourSearch

    search = NeighbourSearch(queries, k + 1)
    for part in table.features.split(ROWS):
        search.add(part.float())
    similarities, indices = search.result(gather_distributed=False)
    own_rows = torch.tensor(own).view(-1, 1)
    most = len(table) - int((own_rows >= 0).any())
    if most < 1:
        raise ValueError(
            "the features are of one image alone, which has no neighbours; give an image file"
        )
    others = indices != own_rows
    # own rows last, the order of the rest as it is; one place more than k is enough
    order = torch.argsort((~others).long(), dim=1, stable=True)[:, : min(k, most)]
    return indices.gather(1, order), similarities.gather(1, order)


def draw(
    path: Path, features: "Features", found: Neighbours, queries: Sequence[str], data: str | None
) -> None:
    """Draw the queries and their neighbours.

    Raises ValueError if the images are gone, or others now.
    """
    import torch

    from sslortho.evaluate.pictures import draw_neighbours
    from sslortho.recipes.embedded import images_of, picture_spec_of, preprocessing_of, views_of

    images, options = images_of(features, data)
    spec = picture_spec_of(features)
    preprocess, rows = (
        preprocessing_of(features, spec),
        {n: i for i, n in enumerate(features.names)},
    )
    read = [_read_query(query, features, rows) for query in queries]
    views = [
        views_of(spec, images, options, torch.tensor([q]))[0]
        if isinstance(q, int)
        else preprocess(q)
        for q in read
    ]
    labels = torch.tensor([int(features.labels[q]) if isinstance(q, int) else -1 for q in read])
    unique, inverse = torch.unique(found.indices, return_inverse=True)
    captions = (
        [Path(name).name for name in found.queries],
        [[Path(name).name for name in names] for names in found.names],
    )
    draw_neighbours(
        path,
        torch.stack(views),
        views_of(spec, images, options, unique)[inverse],
        labels,
        features.labels[found.indices],
        found.similarities,
        features.classes,
        preprocess.mean,
        preprocess.std,
        captions,
    )


def _tell(found: Neighbours, features: "Features") -> None:
    for query, rows, cosines in zip(
        found.queries, found.indices.tolist(), found.similarities.tolist(), strict=True
    ):
        print(query)
        for row, cosine in zip(rows, cosines, strict=True):
            label = features.class_of(row)
            print(f"  {cosine:.4f}  {features.names[row]}{f'  ({label})' if label else ''}")


def main(arguments: Sequence[str], program: str) -> int:
    """The command `neighbours`; the exit code."""
    from sslortho.recipes.command_line import PlainParser, user_errors

    parser = PlainParser(prog=program, description=__doc__)
    parser.add_argument("features", type=Path, help="file that sslortho embed has written")
    parser.add_argument("queries", nargs="+", help="image files, or rows by number or name")
    parser.add_argument("--k", type=int, default=8, help="neighbours of each query (default 8)")
    parser.add_argument("--out", type=Path, help="picture to write (default none)")
    parser.add_argument("--backbone_from", help="run or weights, where they have moved")
    parser.add_argument("--data", help="path of the images, where they have moved; for the picture")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    given = parser.parse_args(arguments)
    with user_errors(given.debug, program):
        from sslortho.evaluate.feature_files import load_features
        from sslortho.evaluate.figures import check_picture

        out = None if given.out is None else given.out.expanduser()
        if out is not None:
            check_picture(out, "out")
        elif given.data is not None:
            raise ValueError(
                f"data={given.data!r} has no effect without out, the picture; give --out"
            )
        features = load_features(given.features)
        found = find_neighbours(features, given.queries, given.k, backbone_from=given.backbone_from)
        _tell(found, features)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            draw(out, features, found, given.queries, given.data)
            print(out)
    return 0
