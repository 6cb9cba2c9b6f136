"""Draw the views of a pretraining's batch, with the draws of each as its caption.

The loader is built as pretraining builds it, so these are the very views of a run's first batch (of
`epoch`).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sslortho.atomic import atomic_file
from sslortho.augment import ViewRenderer, ViewSpec
from sslortho.augment.draws.crops import CropDraw
from sslortho.augment.draws.photometric import PhotometricDraw
from sslortho.data import ImageSet, hold_out
from sslortho.data.loading import check_workers, create_train_loader, load_training_set
from sslortho.data.options import PATH
from sslortho.evaluate.pictures import undo_normalise
from sslortho.recipes.fitted import settled
from sslortho.recipes.pretrain.fitting import USUAL_BATCH
from sslortho.recipes.pretrain.resolve import find_machine, resolve
from sslortho.recipes.show_views.options import ShowViewsOptions
from sslortho.train.launch import join_ranks, shard_of

Indices = NDArray[np.int64]

LEGEND = """below a view: top,left height x width of the crop of the image's height x width, in pixels
b c s: factors of brightness, contrast, saturation; h: turns of hue; in their order; blur: pixels"""

PANEL, GAP, TITLE, CAPTION, HEAD = 2.2, 0.2, 0.3, 0.5, 0.65
"""Inches: a view with its margin (35 characters of a caption fit below it), between samples, above
them, below them for three lines, and above all."""

PANELS_A_ROW = 8
"""Four samples of two views; of more views fewer samples, and at least one."""

JITTER = "bcsh"
"""Letters of brightness, contrast, saturation and hue, by their codes in PhotometricDraw.order."""


@dataclass(frozen=True)
class Sample:
    """One image's views, (size, size, 3) each, values from 0 to 1, and their captions."""

    title: str
    views: tuple[NDArray[np.float32], ...]
    captions: tuple[str, ...]


def describe_crop(draw: CropDraw, i: int, height: int, width: int) -> str:
    """`12,40 123x96 of 375x500`: top, left, height x width, all in pixels of the source."""
    box = f"{draw.top[i]},{draw.left[i]} {draw.height[i]}x{draw.width[i]}"
    return f"{box} of {height}x{width}"


def describe_jitter(draw: PhotometricDraw, i: int) -> str:
    """`b1.20 h-0.03 c0.80 s1.10`: factors (hue: turns) in the order in which they were applied."""
    if not draw.jitter[i]:
        return "no jitter"
    factors = (draw.brightness, draw.contrast, draw.saturation, draw.hue)
    rounded = [round(float(factor[i]), 2) + 0.0 for factor in factors]  # + 0.0: no -0.00
    return " ".join(f"{JITTER[code]}{rounded[code]:.2f}" for code in draw.order[i])


def describe_rest(crop: CropDraw, draw: PhotometricDraw, i: int) -> str:
    """Other operations, in the order of their application."""
    done = {
        "flip": crop.flip[i],
        "grey": draw.grayscale[i],
        f"blur {draw.sigma[i]:.2f}": draw.blur[i],
        "solarise": draw.solarise[i],
    }
    return ", ".join(name for name, holds in done.items() if holds)


def draw_captions(
    renderer: ViewRenderer, view: int, indices: Indices, epoch: int, sizes: tuple[Indices, Indices]
) -> list[str]:
    """Three lines for each sample: box, jitter, the rest."""
    crops = renderer.draw_crops(view, indices, epoch, *sizes)
    colours = renderer.draw_photometric(view, indices, epoch)
    return [
        f"{describe_crop(crops, i, height, width)}\n{describe_jitter(colours, i)}\n"
        f"{describe_rest(crops, colours, i)}"
        for i, (height, width) in enumerate(zip(*sizes, strict=True))
    ]


def collect_samples(options: ShowViewsOptions) -> list[Sample]:
    """The first samples of the first batch of the epoch, their views from the loader itself."""
    resolve(options)  # mistakes are found before data that may take minutes
    accelerator = join_ranks(options, options.run_folder, options.mixed_precision or "no")
    data = load_training_set(options)
    check_workers(options, data)
    if options.validation is not None:
        data, _ = hold_out(data, options.validation, options.seed)
    recipe = resolve(options, images=len(data), machine=find_machine(), side=max(data.first_size))
    batch_size = settled(recipe.options.batch_size)
    parts = batch_size // options.accumulation_steps
    few = options.batch_size is None and len(data) < USUAL_BATCH  # then fewer views are shown
    if parts < options.count and not few:
        raise ValueError(
            f"count={options.count} must be from 1 to a batch of {parts}; give a larger batch_size"
        )
    loader = create_train_loader(
        options,
        data,
        recipe.views,
        batch_size,
        shard_of(accelerator),
        options.accumulation_steps,
    )
    loader.set_epoch(options.epoch)
    batch = next(iter(loader))
    order = data.epoch_order(parts, options.seed, cache=options.cache or "os")
    indices = next(order.steps(options.epoch))[: options.count]
    # callables come from Python alone, and not here
    specs = tuple(view for view in recipe.views if isinstance(view, ViewSpec))
    renderer, sizes = ViewRenderer(specs, options.seed), data.sizes(indices)
    views = [
        undo_normalise(view[: options.count], spec.mean, spec.std).numpy()
        for view, spec in zip(batch.views, specs, strict=True)
    ]
    captions = [
        draw_captions(renderer, view, indices, options.epoch, sizes) for view in range(len(specs))
    ]
    titles = [_title(data, index) for index in indices]
    return [
        Sample(title, pictures, texts)
        for title, pictures, texts in zip(
            titles, zip(*views, strict=True), zip(*captions, strict=True), strict=True
        )
    ]


def _title(data: ImageSet, index: int) -> str:
    label = int(data.labels[index])
    return f"sample {index}" + (f", {data.classes[label]}" if label >= 0 and data.classes else "")


def draw_picture(samples: list[Sample], title: str) -> Figure:
    """The views of a sample side by side at one scale, a few samples a row."""
    views = len(samples[0].views)
    columns = min(max(1, PANELS_A_ROW // views), len(samples))
    scale = 0.97 * PANEL / max(len(pixels) for pixels in samples[0].views)
    rows = -(-len(samples) // columns)
    block_width, block_height = views * PANEL + GAP, TITLE + PANEL + CAPTION
    width = max(columns * block_width, 2 * PANEL) + GAP  # the legend needs two panels
    height = rows * block_height + HEAD
    figure = Figure(figsize=(width, height), dpi=120)
    FigureCanvasAgg(figure)
    figure.text(0.5, 1 - 0.15 / height, title, ha="center", va="center", fontsize=11)
    figure.text(0.5, 1 - 0.45 / height, LEGEND, ha="center", va="center", fontsize=6.5)
    for i, sample in enumerate(samples):
        row, column = divmod(i, columns)
        left, top = GAP + column * block_width, height - HEAD - row * block_height
        middle = (left + views * PANEL / 2) / width
        figure.text(middle, (top - TITLE / 2) / height, sample.title, ha="center", va="center",
                    fontsize=9)  # fmt: skip
        for view, (pixels, caption) in enumerate(zip(sample.views, sample.captions, strict=True)):
            corner = ((left + view * PANEL) / width, (top - TITLE - PANEL) / height)
            side = scale * len(pixels)
            axes = figure.add_axes((*corner, side / width, side / height))
            axes.imshow(pixels)
            axes.set_axis_off()
            axes.text(0, -0.02, caption, transform=axes.transAxes, va="top", fontsize=7.5,
                      family="monospace")  # fmt: skip
    return figure


def run(options: ShowViewsOptions) -> Path:
    """Draw the picture; its path. Raises ValueError for a user's mistake."""
    out = Path(options.picture)
    out.parent.mkdir(parents=True, exist_ok=True)
    samples = collect_samples(options)
    source = Path(str(options.data_dir)).name if options.data == PATH else options.data
    title = f"{source}, epoch {options.epoch}, seed {options.seed}"
    figure = draw_picture(samples, title)
    with atomic_file(out) as file:
        figure.savefig(file, format=out.suffix[1:])
    return out
