"""Methods with a part taken out on purpose."""

from typing import Any

import torch
from torch import Tensor

from sslortho.methods.byol import BYOL
from sslortho.methods.dino import DINO
from sslortho.methods.simsiam import SimSiam
from sslortho.methods.task import compute_in_float32, spread


class SimSiamWithoutStopGradient(SimSiam):
    """SimSiam whose gradient flows into both branches (arXiv 2011.10566, section 4.1)."""

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        z_a, z_b = (self.projector(self.backbone(view)) for view in views)
        loss_a = compute_in_float32(self.loss, self.predictor(z_a), z_b)
        loss_b = compute_in_float32(self.loss, self.predictor(z_b), z_a)
        return {"loss": (loss_a + loss_b) / 2, "spread": spread(z_a)}


class SimSiamWithoutPredictor(SimSiam):
    """SimSiam without its predictor (arXiv 2011.10566, section 4.2)."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.predictor = torch.nn.Identity()


class BYOLWithoutStopGradient(BYOL):
    """BYOL whose target is the network itself, with its gradient."""

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        z_a, z_b = (self.projector(self.backbone(view)) for view in views)
        loss_a = compute_in_float32(self.loss, self.predictor(z_a), z_b)
        loss_b = compute_in_float32(self.loss, self.predictor(z_b), z_a)
        return {"loss": (loss_a + loss_b) / 2, "spread": spread(z_a)}


class BYOLWithoutPredictor(BYOL):
    """BYOL without its predictor (arXiv 2006.07733, table 5)."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.predictor = torch.nn.Identity()


class DINOWithoutCentring(DINO):
    """DINO whose teacher is not centred (arXiv 2104.14294, section 5.3)."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        loss: Any = self.loss
        loss.center_momentum = 1.0  # the centre stays at zero
