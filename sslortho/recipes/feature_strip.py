"""Features while they form: `sslortho feature_strip runs/x --out strip.png`.

Draws a map of the same images for several checkpoints of a pretraining, from the untrained network to the end.
--out strip.gif is an animation. A run keeps its newest two checkpoints: pretrain with --keep_last 1000 for one
of each epoch. pca: the two directions of largest variance. tsne: neighbours stay neighbours, and each map
starts from the one before. Features are set to length 1. Each map is turned to fit the one before, and has its
own scale.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sslortho.models import BackboneInfo
    from sslortho.models.backbones import Stem

StripMethod = Literal["pca", "tsne"]

DATA_OPTIONS = (
    "data", "data_dir", "test_data", "labels", "exif_orientation", "image_column", "label_column",
    "follow_links", "skip_broken",
)  # fmt: skip
"""Options of a run that say which images it has."""


@dataclass(frozen=True, eq=False)
class Strip:
    """Maps of the same images by the network at several steps of a training."""

    steps: Sequence[int]
    """k steps, ascending; 0 is the network before training."""
    maps: Sequence["Tensor"]
    """k tensors (n, 2)."""
    labels: "Tensor"
    """int64 (n,); -1 where an image has none."""
    classes: Sequence[str]
    """Names of the classes, by label; may be empty."""
    names: Sequence[str]
    """n names of the images."""


def map_training(
    run: str | Path,
    data: Any = None,
    *,
    method: StripMethod = "pca",
    panels: int = 6,
    points: int = 2000,
    seed: int = 0,
    out: str | Path | None = None,
    **options: Any,
) -> Strip:
    """Map the features of a run's checkpoints: the command `feature_strip`.

    Args:
        run: folder of a finished pretraining.
        data: images, as for `extract_features`. Default: the run's own: to test on or, without those,
            to train on.
        method: "pca", or "tsne", which starts from the map before.
        panels: maps, at most: the first, the last, and others at equal distances between them.
        points: images of a map, at most, chosen by seed; all go through the network.
        seed: of the choice and of t-SNE.
        out: picture to draw; .gif is an animation. Default: none.
        options: of `extract_features`, such as `threads` and `split`.

    Raises ValueError for a run without checkpoints, one that is no pretraining, one whose network is a module
    from Python, and for an `out` that is no picture.
    """
    import numpy as np
    import torch
    from tqdm import tqdm

    from sslortho.evaluate.figures import check_picture
    from sslortho.recipes.api import extract_features

    if method not in ("pca", "tsne"):
        raise ValueError(f"method={method!r} must be pca or tsne")
    for name, value, least in (("panels", panels, 2), ("points", points, 3)):
        if value < least:
            raise ValueError(f"{name}={value} must be {least} or more")
    if out is not None:
        check_picture(Path(out), "out", others=("gif",))
    folder = Path(run).expanduser()
    images = _images_of(folder) if data is None else {"data": data}
    steps, maps, found = [], [], None
    rows = torch.empty(0)
    for step, network in tqdm(_networks(folder, panels), "checkpoints", delay=2, leave=False):
        with contextlib.redirect_stdout(io.StringIO()):  # where the weights are from, each time
            found = extract_features(network, **{**images, **options})
        if not maps:
            chosen = np.random.default_rng(seed).permutation(len(found))[:points]
            rows = torch.from_numpy(np.sort(chosen))
        steps.append(step)
        maps.append(_place(found.features[rows].float(), maps[-1] if maps else None, method, seed))
    assert found is not None
    names = [str(found.names[row]) for row in rows.tolist()]
    strip = Strip(steps, maps, found.labels[rows], found.classes, names)
    if out is not None:
        _draw(strip, folder, method, Path(out).expanduser())
    return strip


def _draw(strip: Strip, run: Path, method: str, out: Path) -> None:
    from sslortho.evaluate.strips import draw_strip

    out.parent.mkdir(parents=True, exist_ok=True)
    captions = [_caption(step, run) for step in strip.steps]
    title = f"{run.name}: {len(strip.labels):,} images, {method}"
    draw_strip(out, strip.maps, strip.labels, strip.classes, captions, title)


def _place(features: "Tensor", before: "Tensor | None", method: str, seed: int) -> "Tensor":
    """Places float64 (n, 2) of features (n, dim), turned to fit the map before."""
    from torch.nn import functional

    from sslortho.evaluate.projections import project_pca, project_tsne
    from sslortho.evaluate.strips import turn_to_fit

    features = functional.normalize(features, dim=1)
    if method == "pca" or before is None:
        places, _ = project_pca(features)
    if method == "tsne":
        start = places if before is None else before
        places, _ = project_tsne(features, seed, len(features), start)
        places = places.double() - places.double().mean(dim=0)
    return places if before is None else turn_to_fit(places, before)


def _read_config(folder: Path) -> dict[str, Any]:
    import yaml

    from sslortho.runs.folder import RunFolder

    path = RunFolder(folder).config
    if not path.is_file():
        raise ValueError(f"run={str(folder)!r} is not a run folder: it has no config.yaml")
    return dict(yaml.safe_load(path.read_text()))


def _images_of(folder: Path) -> dict[str, Any]:
    """Options that name the images of a run. Raises ValueError where a program has handed them over."""
    from sslortho.options import GIVEN

    config = _read_config(folder)
    named = {name: config[name] for name in DATA_OPTIONS if config.get(name) is not None}
    if named.get("data") == GIVEN:
        raise ValueError(
            f"the images of run={str(folder)!r} were handed over in Python; give data, such as --data photos"
        )
    return named


def _networks(folder: Path, panels: int) -> Iterator[tuple[int, "nn.Module"]]:
    """Steps and networks of a run, on the CPU, in evaluation mode: the untrained one, and checkpoints."""
    from sslortho.models import read_weights, restore_backbone
    from sslortho.options import GIVEN
    from sslortho.recipes.calls import torch_as_before
    from sslortho.runs.folder import RunFolder

    config, info = _read_config(folder), read_weights(folder).info
    if "method" not in config:
        raise ValueError(
            f"run={str(folder)!r} is no pretraining; give the folder of one, or map its features: sslortho "
            "embed, then feature_map"
        )
    if info is None or info.backbone == GIVEN:
        raise ValueError(
            f"run={str(folder)!r} trained a module from Python, whose code is in no file: load each checkpoint "
            "by load_backbone(checkpoint, module), and take extract_features"
        )
    files = sorted(RunFolder(folder).checkpoints.glob("step-*.pt"))
    if not files:
        raise ValueError(
            f"run={str(folder)!r} has no checkpoints; pretrain with --keep_last 1000 keeps one of each epoch"
        )
    stem = cast("Stem", info.stem)
    untrained = [None] if config.get("initial_weights") is None else []
    for file in _spread([*untrained, *files], panels):
        if file is None:
            with torch_as_before():
                network = _create_untrained(info, config["seed"])
            yield 0, network
            continue
        with torch_as_before():
            weights = replace(read_weights(file), info=info)
            network = restore_backbone(weights, info.backbone, stem).network
        yield int(file.name.split("-")[1].split(".")[0]), network


def _create_untrained(info: "BackboneInfo", seed: int) -> "nn.Module":
    from sslortho.models.backbones import BackboneSettings, needs_any_size
    from sslortho.models.weights.file import note_pretraining

    network = BackboneSettings(
        name=info.backbone,
        stem=cast("Stem", info.stem),
        any_size=needs_any_size(info.backbone, info.crop_size),
        seed=seed,
    ).create()
    network.eval()
    note_pretraining(network, info)
    return network


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` items at equal distances, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _caption(step: int, run: Path) -> str:
    """Step and, where the run has measured it there, accuracy of kNN."""
    from sslortho.runs.folder import RunFolder
    from sslortho.train.records import read_metrics

    records = read_metrics(RunFolder(run).metrics, ("knn_top1",))
    known = [r["knn_top1"] for r in records if r["step"] == step and "knn_top1" in r]
    words = "untrained" if step == 0 else f"step {step:,}"
    return f"{words}, kNN {known[-1]:.1f} %" if known and known[-1] is not None else words


def main(arguments: Sequence[str], program: str) -> int:
    """The command `feature_strip`; the exit code."""
    from sslortho.recipes.command_line import PlainParser, user_errors

    parser = PlainParser(prog=program, description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished pretraining")
    parser.add_argument("--data", help="images (default: the run's, to test on if it has some)")
    parser.add_argument("--method", default="pca", help="pca (default) or tsne")
    parser.add_argument("--panels", type=int, default=6, help="maps, at most (6)")
    parser.add_argument("--points", type=int, default=2000, help="images of a map, at most (2000)")
    parser.add_argument("--seed", type=int, default=0, help="of choice and layout (0)")
    parser.add_argument("--threads", type=int, help="of the CPU (default: all)")
    parser.add_argument(
        "--out", type=Path, default=Path("strip.png"), help="picture; .gif: animation (strip.png)"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    given = parser.parse_args(arguments)
    with user_errors(given.debug, program):
        map_training(
            given.run, given.data, method=given.method, panels=given.panels, points=given.points,
            seed=given.seed, out=given.out,
            **({} if given.threads is None else {"threads": given.threads}),
        )  # fmt: skip
        print(given.out)
    return 0
