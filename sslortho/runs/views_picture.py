"""Picture of the training views, views.png.

Pillow draws it: it is written before the first step, and matplotlib takes more than a second to import.
"""

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sslortho.atomic import atomic_file

TILE, GAP, LABEL = 132, 12, 72
"""Pixels: the height of the largest view, between tiles, and the width of the names of the rows."""


def _to_image(view: Tensor, height: int) -> Image.Image:
    """Picture of a view (channels, height, width) of values from 0 to 1; of more channels the first three."""
    channels = len(view)
    if channels == 2:
        view = torch.cat((view, torch.zeros_like(view[:1])))
    values = (view[:3] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    image = Image.fromarray(values[..., 0] if channels == 1 else values).convert("RGB")
    width = max(1, round(image.width * height / image.height))
    small = image.height < height  # pixels of a small view stay squares
    resample = Image.Resampling.NEAREST if small else Image.Resampling.BOX
    return image.resize((width, height), resample)


def _scale(view: Tensor) -> Tensor:
    """Values of a batch of views, each channel's range stretched to 0 to 1."""
    view = view.float().cpu()
    low, high = view.amin(dim=(0, 2, 3)), view.amax(dim=(0, 2, 3))
    return (view - low.view(1, -1, 1, 1)) / (high - low).clamp_min(1e-6).view(1, -1, 1, 1)


def draw_views(path: Path, views: tuple[Tensor, ...], columns: int = 8) -> None:
    """Draw augmented views: a row for each view, a column for each image.

    The height of a row is in proportion to the size of its view.

    Args:
        path: of the picture, a .png.
        views: tensors (batch, channels, height, width), normalised as for training; sizes may differ.
            Each channel of a view is scaled to its own range of values.
        columns: images shown.
    """
    largest = max(view.shape[2] for view in views)
    rows = [
        [
            _to_image(image, max(1, TILE * view.shape[2] // largest))
            for image in _scale(view[:columns])
        ]
        for view in views
    ]
    wide = max(image.width for row in rows for image in row) + GAP
    size = (LABEL + wide * len(rows[0]), GAP + sum(row[0].height + GAP for row in rows))
    picture = Image.new("RGB", size, "white")
    pen, font, top = ImageDraw.Draw(picture), ImageFont.load_default(), GAP
    for number, row in enumerate(rows, 1):
        height = row[0].height
        pen.text((GAP, top + height / 2 - 6), f"view {number}", fill="black", font=font)
        for column, image in enumerate(row):
            picture.paste(image, (LABEL + wide * column, top))
        top += height + GAP
    with atomic_file(path) as file:
        picture.save(file, format="png")
