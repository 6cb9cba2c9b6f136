"""Small networks for 32-pixel images."""

import torch
from torch import Tensor, nn
from torch.nn import functional


def _shortcut(x: Tensor, stride: int, before: int, after: int) -> Tensor:
    """Subsample x and pad its channels with zeros: the identity of option A, arXiv 1512.03385.

    (batch, channels, height, width) to (batch, before + channels + after, height / stride, ...).
    """
    if stride > 1 or before or after:
        x = x[:, :, ::stride, ::stride]
        x = functional.pad(x, (0, 0, 0, 0, before, after))
    return x


class PreActivationBlock(nn.Module):
    """Fully pre-activated residual block (arXiv 1603.05027, figure 4e).

    Batch norm, ReLU and 3x3 convolution, twice, added to the identity. Where the shape changes, the
    identity is subsampled and zero channels are appended (option A of arXiv 1512.03385), so it has no
    parameters.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, padding=1, bias=False)
        self.stride = stride
        self.added_channels = channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(functional.relu(self.bn1(x)))
        out = self.conv2(functional.relu(self.bn2(out)))
        return _shortcut(x, self.stride, 0, self.added_channels) + out


class PostActivationBlock(nn.Module):
    """Original residual block (arXiv 1512.03385, figure 2).

    3x3 convolution and batch norm, twice, with a ReLU between the two and one after the sum with the
    identity. Where the shape changes, the identity is subsampled and padded with zero channels, half
    of them on each side, as in the code of arXiv 2202.07052.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.added_channels = channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        half = self.added_channels // 2
        return functional.relu(out + _shortcut(x, self.stride, half, self.added_channels - half))


def _stage(
    block: type[nn.Module], in_channels: int, channels: int, blocks: int, stride: int
) -> nn.Sequential:
    rest = (block(channels, channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(block(in_channels, channels, stride), *rest)


def kaiming_linear(dim: int, classes: int) -> nn.Linear:
    """Linear layer (batch, dim) to (batch, classes): Kaiming-normal weights, torch's default biases."""
    classifier = nn.Linear(dim, classes)
    nn.init.kaiming_normal_(classifier.weight)
    return classifier


class CifarResNet(nn.Module):
    """Residual network of depth 6n + 2 for small images (arXiv 1512.03385, section 4.2).

    The blocks are fully pre-activated, as in the text of arXiv 2202.07052, or post-activated, as in its
    authors' code. Convolutions start Kaiming-normal. The fan is that of the output in pre-activated
    networks, as in the code of arXiv 1603.05027 (KaimingHe/resnet-1k-layers), and that of the input in
    post-activated ones, as in the code of arXiv 2202.07052.

    Args:
        depth: 20, 32, 44, 56, 110, ...
        num_classes: outputs of the classifier; 0 for the 4 * width features before it.
        width: channels of the first stage, 16 in the paper.
        post_activation: put batch norm and ReLU after the convolutions instead of before.

    Maps (batch, 3, height, width) to (batch, num_classes or 4 * width).

    Raises:
        ValueError: `depth` is not 6n + 2.
    """

    def __init__(
        self, depth: int, num_classes: int = 0, width: int = 16, post_activation: bool = False
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth={depth} must be 6 n + 2: 20, 32, 44, 56, 110")
        blocks = (depth - 2) // 6
        block = PostActivationBlock if post_activation else PreActivationBlock
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width) if post_activation else None
        self.layer1 = _stage(block, width, width, blocks, 1)
        self.layer2 = _stage(block, width, 2 * width, blocks, 2)
        self.layer3 = _stage(block, 2 * width, 4 * width, blocks, 2)
        self.bn = None if post_activation else nn.BatchNorm2d(4 * width)
        self.fc = kaiming_linear(4 * width, num_classes) if num_classes else nn.Identity()
        mode = "fan_in" if post_activation else "fan_out"
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        if self.bn1 is not None:
            x = functional.relu(self.bn1(x))
        x = self.layer3(self.layer2(self.layer1(x)))
        if self.bn is not None:
            x = functional.relu(self.bn(x))
        return self.fc(x.mean(dim=(-2, -1)))


class BasicCNN(nn.Module):
    """Three 3x3 convolutions of stride 2 with 32 filters, and a linear layer.

    The small network of arXiv 2202.07052, appendix A.1: 24,714 parameters with 10 classes and
    32-pixel images.

    Args:
        num_classes: outputs of the classifier; 0 for the 512 features (32 channels of 4 x 4) before it.

    Maps (batch, 3, 32, 32) to (batch, num_classes or 512).
    """

    def __init__(self, num_classes: int = 0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for in_channels in (3, 32, 32):
            layers += [
                nn.Conv2d(in_channels, 32, 3, stride=2, padding=1),
                nn.BatchNorm2d(32),
                nn.ReLU(inplace=True),
            ]
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(512, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.features(x), 1))
