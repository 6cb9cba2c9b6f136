"""Options of trainings that go on from weights."""

from dataclasses import dataclass

from sslortho.options import GIVEN, Options, option

TIMM = "timm"
"""Value of initial_weights for the weights that timm publishes."""


@dataclass(frozen=True, kw_only=True)
class InitialWeightsOptions(Options):
    """Which weights the backbone begins with, and how they are kept."""

    initial_weights: str | None = option(None, group="model and method", path=True, by_content=True)
    """Weights that the backbone begins with: run folder, or weights file of ours, torchvision, timm,
    facebookresearch/barlowtwins, lightly or solo-learn; timm: those that timm publishes for a timm:NAME,
    downloaded. Default: initial weights, drawn by seed."""
    layer_decay: float | None = option(None, group="optimisation", rare=True)
    """Factor of the learning rate from each layer of the backbone to the one before it, such as 0.75; a
    layer is a block of the network. Default: one rate for all layers."""
    keep_stem: bool = option(False, group="model and method", rare=True)
    """Do not train the first layer of the backbone: it keeps its weights and its batch norm statistics."""

    def __post_init__(self) -> None:
        decay, backbone = self.layer_decay, getattr(self, "backbone", "")
        self._check("layer_decay", decay is None or 0 < decay < 1, "above 0 and below 1")
        if decay is not None and getattr(self, "optim", "") == "muon":
            raise ValueError(
                f"layer_decay={decay} does not go with optim='muon', which has two rates already; take "
                "another optim, such as orth_sgd with orth_momentum"
            )
        if self.keep_stem and self.initial_weights is None and backbone != GIVEN:
            raise ValueError(
                "keep_stem=True keeps a first layer that was drawn at random; give initial_weights too"
            )
        if self.initial_weights == TIMM and not backbone.startswith("timm:"):
            raise ValueError(
                f"initial_weights='timm' has no effect on backbone={backbone!r}; it is for timm:NAME (a "
                "file of this name is ./timm)"
            )
        super().__post_init__()
