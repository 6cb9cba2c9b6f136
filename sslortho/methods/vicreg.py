"""VICReg (arXiv 2105.04906)."""

from dataclasses import dataclass

from lightly.loss import VICRegLoss
from lightly.models.modules.heads import VICRegProjectionHead
from torch import Tensor, nn

from sslortho.augment.views import ViewSpec
from sslortho.methods.task import Method, in_float32, read_widths, require, spread


@dataclass(frozen=True, kw_only=True)
class VICRegOptions:
    """VICReg."""

    projector: str = "512-512-512"
    """Widths of the projector's layers, hidden ones of one width. The paper's, for ResNet-50:
    8192-8192-8192."""
    invariance: float = 25.0
    """Weight of the distance between the views; this and the next two are the paper's."""
    variance: float = 25.0
    """Weight of what each dimension's deviation lacks of 1."""
    covariance: float = 1.0
    """Weight of the covariances between dimensions."""
    lr_biases: float = 0.2
    """Rate of biases and norms per 256 samples; the paper's, for ImageNet."""


class VICReg(Method):
    """Two views of an image shall be near, every dimension spread, and no two alike."""

    Options = VICRegOptions

    @staticmethod
    def check(options: VICRegOptions) -> None:
        for name in ("invariance", "variance", "covariance"):
            require(options, name, getattr(options, name) >= 0, "0 or more")
        *hidden, _ = read_widths(options.projector)
        wanted = "one or more hidden layers of one width, and the output, such as 512-512-512"
        require(options, "projector", len(set(hidden)) == 1, wanted)

    def __init__(self, backbone: nn.Module, dim: int, options: VICRegOptions) -> None:
        super().__init__(backbone, dim, options)
        *hidden, output = read_widths(options.projector)
        self.projector = VICRegProjectionHead(dim, hidden[0], output, num_layers=len(hidden) + 1)
        self.loss = VICRegLoss(
            lambda_param=options.invariance,
            mu_param=options.variance,
            nu_param=options.covariance,
            gather_distributed=True,
        )

    @classmethod
    def views(cls, crop_size: int = 224) -> tuple[ViewSpec, ...]:
        """Appendix C.1: those of BYOL, the same for both."""
        view = ViewSpec(crop_size=crop_size, blur_p=0.5, solarise_p=0.1)
        return view, view

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        z_a, z_b = (self.projector(self.backbone(view)) for view in views)
        return {"loss": in_float32(self.loss, z_a, z_b), "spread": spread(z_a)}
