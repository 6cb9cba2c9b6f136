"""Small networks, and checkpoints of them."""

from pathlib import Path

import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock

from sslortho.models import LoadReport, WeightsFile, load_backbone, read_weights


def trained(network: nn.Module, seed: int = 0) -> nn.Module:
    """Change every tensor of a network, so that one that is not loaded shows in the features."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith(("running_var", "running_mean")) or value.ndim == 1:
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            elif value.is_floating_point():
                value.normal_(std=(2 / value[0].numel()) ** 0.5, generator=generator)
    return network.eval()


@torch.no_grad()
def features(network: nn.Module) -> torch.Tensor:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(9))
    return network(images)


def check(ours: nn.Module, path: Path, original: nn.Module, prefix=None) -> LoadReport:
    """Load `path` into a network, and compare its features with the original's."""
    report = load_backbone(ours.eval(), read_weights(path), prefix)
    torch.testing.assert_close(features(ours), features(original))
    return report


def resnet10() -> nn.Module:
    """Network of torchvision's class ResNet, at half the cost of its smallest."""
    network = torchvision.models.ResNet(BasicBlock, [1, 1, 1, 1])
    network.fc = nn.Identity()
    return network


def saved(path: Path, content) -> Path:
    torch.save(content, path)
    return path


def weights(state, **options) -> WeightsFile:
    return WeightsFile(path=Path("there.pth"), state=dict(state), **options)


def prefixed(prefix: str, network: nn.Module) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in network.state_dict().items()}
