"""Residual networks with wider stages than torchvision's, as facebookresearch/vicreg names them.

The "x2" of SimCLR, SwAV ("w2") and VICReg multiplies the channels of every layer. torchvision's
`wide_resnet50_2` widens the 3x3 convolutions alone.
"""

from typing import Any

from torch import nn

WIDE_RESNETS = {
    "resnet50x2": ((3, 4, 6, 3), 2),
    "resnet50x4": ((3, 4, 6, 3), 4),
    "resnet50x5": ((3, 4, 6, 3), 5),
    "resnet200x2": ((3, 24, 36, 3), 2),
}
"""Blocks of each stage and the factor on all channels (facebookresearch/vicreg, resnet.py)."""


def create_wide_resnet(name: str, zero_init_residual: bool) -> nn.Module:
    """Create a network of WIDE_RESNETS: images (batch, 3, height, width) to (batch, 2048 * factor).

    Tensors and outputs are those of facebookresearch/vicreg, whose additional padding layer of 1 before
    a convolution padded by 2 is torchvision's padding of 3.
    """
    from torchvision.models import ResNet
    from torchvision.models.resnet import Bottleneck

    blocks, factor = WIDE_RESNETS[name]

    class WideResNet(ResNet):
        def _make_layer(
            self, block: Any, planes: int, blocks: int, stride: int = 1, dilate: bool = False
        ) -> nn.Sequential:
            if planes == 64:  # the first stage, which follows the first convolution
                self.inplanes = 64 * factor
            return super()._make_layer(block, planes * factor, blocks, stride, dilate)

    model: Any = WideResNet(Bottleneck, list(blocks), zero_init_residual=zero_init_residual)
    model.conv1 = nn.Conv2d(3, 64 * factor, 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.bn1 = nn.BatchNorm2d(64 * factor)
    model.fc = nn.Identity()
    return model
