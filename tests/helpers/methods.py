"""Methods of pretraining on a tiny backbone, and batches for them."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from sslortho.methods import Method, load_method

DIM, SIDE, BATCH = 6, 4, 8
WIDTHS = {
    "barlow_twins": "9-7",
    "simclr": "9-7",
    "vicreg": "9-9-7",
    "byol": "9-7",
    "simsiam": "8-8-8",
    "moco_v2": "9-7",
    "dino": "9-5-7",
    "lejepa": "9-8-7",
    "emp_ssl": "9-8-7",
}
"""Projectors of different widths, so that no two dimensions can be confused."""


def create(name: str, **options) -> Method:
    """A method with the same weights at each call."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, DIM), nn.BatchNorm1d(DIM))
    method = load_method(name)
    return method(backbone, DIM, method.Options(**{"projector": WIDTHS[name], **options}))


def draw_views(count: int = 2, seed: int = 1) -> tuple[Tensor, ...]:
    """Views (batch, 3, side, side) of random images."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(BATCH, 3, SIDE, SIDE, generator=generator) for _ in range(count))


def loss_of(name: str, views: tuple[Tensor, ...], **options) -> tuple[Method, Tensor]:
    """A method, and its loss of the views."""
    task = create(name, **options)
    return task, task(views, torch.zeros(BATCH))["loss"]


def projections(task: Method, views: tuple[Tensor, ...]) -> list[Tensor]:
    """Projections (batch, dim) of each view on its own."""
    return [task.projector(task.backbone(view)) for view in views]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Mean cosine of the rows of a with those of b."""
    return (normalize(a, dim=1) * normalize(b, dim=1)).sum(dim=1).mean()


def linear_layers(module: nn.Module) -> list[nn.Linear]:
    """Dense layers of a module, in their order."""
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
