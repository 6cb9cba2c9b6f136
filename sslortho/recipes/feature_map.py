"""Map of features in the plane: `sslortho feature_map photos.npz --out map.png`.

Writes a picture with a point for each image, coloured by class where there are classes, and beside it the
coordinates with the names as map.csv. pca: the two directions of largest variance. tsne, umap: neighbours stay
neighbours, distances mean little; umap needs the extra [umap].
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from sslortho.evaluate.feature_files import Features

MapMethod = Literal["pca", "tsne", "umap"]

POINTS = 4000
"""Points of a map by t-SNE or UMAP, whose time grows faster than their number."""


def map_features(
    features: "Features | str | Path",
    method: MapMethod = "pca",
    *,
    points: int = POINTS,
    seed: int = 0,
) -> tuple["Tensor", "Tensor", tuple[str, str]]:
    """Places of images in the plane, by their features: the command `feature_map`.

    Args:
        features: file that `embed` has written, or what `load_features` gives.
        method: "pca" of all images; "tsne" or "umap", by cosine, of at most `points`.
        points: chosen by seed if there are more.
        seed: of the choice and the layout.

    Returns:
        places: (m, 2).
        indices: int64 (m,), ascending: the rows of the features that they are of.
        names of the two axes, for pca with their share of the variance.

    Raises ValueError for too few features, and for UMAP without umap-learn.
    """
    import torch

    from sslortho.evaluate.feature_files import Features, load_features
    from sslortho.evaluate.projections import project_pca, project_tsne, project_umap

    table = features if isinstance(features, Features) else load_features(features)
    if method not in ("pca", "tsne", "umap"):
        raise ValueError(f"method={method!r} must be pca, tsne or umap")
    if points < 3:
        raise ValueError(f"points={points} must be 3 or more")
    if method == "pca":
        places, shares = project_pca(table.features)
        first, second = (f"component {i}: {100 * float(s):.1f} % of the variance"
                         for i, s in enumerate(shares, 1))  # fmt: skip
        return places, torch.arange(len(table)), (first, second)
    project = project_tsne if method == "tsne" else project_umap
    layout = project(table.features, seed, points)
    if layout is None:
        raise ValueError(
            f"method='umap' of {len(table)} images needs 3 images or more, and umap-learn: pip install "
            "'sslortho[umap]'; pca and tsne need no package"
        )
    return *layout, ("", "")


def write_coordinates(
    path: Path, features: "Features", places: "Tensor", indices: "Tensor"
) -> None:
    """Write name, coordinates, label and class of each point as CSV."""
    import csv
    import io

    from sslortho.atomic import atomic_file

    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("row", "name", "x", "y", "label", "class"))
    for row, (x, y) in zip(indices.tolist(), places.tolist(), strict=True):
        label = int(features.labels[row])
        writer.writerow((row, features.names[row], x, y, label, features.class_of(row)))
    with atomic_file(path) as file:
        file.write(text.getvalue().encode("utf-8", "surrogateescape"))


def main(arguments: Sequence[str], program: str) -> int:
    """The command `feature_map`; the exit code."""
    from sslortho.recipes.command_line import PlainParser, user_errors

    parser = PlainParser(prog=program, description=__doc__)
    parser.add_argument("features", type=Path, help="file that sslortho embed has written")
    parser.add_argument("--method", default="pca", help="pca (default), tsne or umap")
    parser.add_argument(
        "--points", type=int, default=POINTS, help="at most, of tsne and umap (4000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of choice and layout (0)")
    parser.add_argument("--out", type=Path, default=Path("map.png"), help="the picture (map.png)")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    given = parser.parse_args(arguments)
    with user_errors(given.debug, program):
        from sslortho.evaluate.feature_files import load_features
        from sslortho.evaluate.figures import check_picture
        from sslortho.evaluate.pictures import draw_feature_map

        out = given.out.expanduser()
        check_picture(out, "out")
        features = load_features(given.features)
        places, indices, axes = map_features(
            features, given.method, points=given.points, seed=given.seed
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        title = f"{given.features.name}: {len(places):,} images, {given.method}"
        labels = features.labels[indices]
        draw_feature_map(out, places, labels, features.classes, title, axis_names=axes)
        write_coordinates(out.with_suffix(".csv"), features, places, indices)
        print(out)
        print(out.with_suffix(".csv"))
    return 0
