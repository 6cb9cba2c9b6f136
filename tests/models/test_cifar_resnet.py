import pytest
import torch
from helpers.networks import trained
from torch import nn

from sslortho.models.cifar_resnet import BasicCNN, CifarResNet


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_basic_cnn_has_the_published_number_of_parameters():
    """arXiv 2202.07052, appendix A.1."""
    assert count_parameters(BasicCNN(num_classes=10)) == 24_714


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, "0.27"), (32, "0.46"), (44, "0.66"), (56, "0.85"), (110, "1.7")]
)
@pytest.mark.parametrize("post_activation", [False, True])
def test_cifar_resnets_have_the_published_number_of_parameters(depth, millions, post_activation):
    """arXiv 1512.03385, table 6."""
    model = CifarResNet(depth, num_classes=10, post_activation=post_activation)
    assert f"{count_parameters(model) / 1e6:.{len(millions) - 2}f}" == millions
    weighted = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(weighted) == depth


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_pre_activation_networks_have_the_parameters_that_their_layers_add_up_to(depth):
    n = (depth - 2) // 6
    # 3x3 convolutions: the image's, then 2n in each of three stages, whose first is of its input
    convolutions = 9 * (3 * 16 + 2 * n * 16**2)
    convolutions += 9 * (16 * 32 + (2 * n - 1) * 32**2) + 9 * (32 * 64 + (2 * n - 1) * 64**2)
    # batch norm of every convolution's input but the image, and of the features: scale and shift
    normalised = 2 * n * 16 + (16 + (2 * n - 1) * 32) + (32 + (2 * n - 1) * 64) + 64
    with torch.device("meta"):
        count = count_parameters(CifarResNet(depth, num_classes=10))
    assert count == convolutions + 2 * normalised + 64 * 10 + 10


def test_cifar_resnet_stages_halve_the_resolution_and_double_the_channels():
    model, shapes = CifarResNet(20, width=8), []
    for stage in (model.layer1, model.layer2, model.layer3):
        stage.register_forward_hook(lambda *args: shapes.append(tuple(args[2].shape[1:])))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 32)
    assert shapes == [(8, 32, 32), (16, 16, 16), (32, 8, 8)]


def test_cifar_resnet_shortcut_is_an_identity_subsampled_and_padded():
    """With silent residual branches the features are those of the first convolution (option A)."""
    torch.manual_seed(0)
    model, images = CifarResNet(20).eval(), torch.randn(3, 3, 32, 32)
    for name, module in model.named_modules():
        if name.endswith("conv2"):
            nn.init.zeros_(module.weight)
    identity = model.conv1(images)[:, :, ::4, ::4] / (1 + 1e-5) ** 0.5
    expected = torch.cat([identity.relu().mean(dim=(2, 3)), torch.zeros(3, 48)], dim=1)
    torch.testing.assert_close(model(images), expected)


def test_cifar_resnet_block_is_fully_pre_activated():
    """arXiv 1603.05027, figure 4e: x + conv(relu(bn(conv(relu(bn(x)))))), no ReLU after the sum."""
    torch.manual_seed(0)
    block = CifarResNet(20).layer1[0].eval()
    x = torch.randn(2, 16, 8, 8)
    hidden = x / (1 + 1e-5) ** 0.5
    for conv in (block.conv1, block.conv2):
        hidden = nn.functional.conv2d(hidden.relu(), conv.weight, padding=1)
        hidden = hidden / (1 + 1e-5) ** 0.5 if conv is block.conv1 else hidden
    torch.testing.assert_close(block(x), x + hidden)
    assert block(x).min() < 0


def normalised(x: torch.Tensor, norm: nn.BatchNorm2d) -> torch.Tensor:
    mean, var, weight, bias = (
        value.detach().view(-1, 1, 1)
        for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


@pytest.mark.parametrize("stage", ["layer1", "layer2"])
def test_cifar_resnet_block_is_post_activated(stage):
    """arXiv 1512.03385, figure 2: relu(bn(conv(relu(bn(conv(x))))) + x), zero channels on both sides."""
    network = trained(CifarResNet(20, post_activation=True))
    block, stride = getattr(network, stage)[0], 1 if stage == "layer1" else 2
    x = torch.randn(2, 16, 8, 8)
    hidden = nn.functional.conv2d(x, block.conv1.weight, stride=stride, padding=1)
    hidden = normalised(hidden, block.bn1).relu()
    hidden = normalised(nn.functional.conv2d(hidden, block.conv2.weight, padding=1), block.bn2)
    shortcut = torch.zeros_like(hidden)
    first = (shortcut.shape[1] - 16) // 2
    shortcut[:, first : first + 16] = x[:, :, ::stride, ::stride]
    torch.testing.assert_close(block(x), (hidden + shortcut).relu())


def test_post_activated_network_is_its_parts_in_order():
    network, x = (
        trained(CifarResNet(8, 10, width=4, post_activation=True)),
        torch.randn(2, 3, 16, 16),
    )
    hidden = nn.functional.conv2d(x, network.conv1.weight, padding=1)
    hidden = normalised(hidden, network.bn1).relu()
    for stage in (network.layer1, network.layer2, network.layer3):
        hidden = stage(hidden)
    expected = hidden.flatten(2).mean(2) @ network.fc.weight.T + network.fc.bias
    torch.testing.assert_close(network(x), expected)
    assert {type(m).__name__ for m in network.children()} == {
        "Conv2d", "BatchNorm2d", "Sequential", "Linear",
    }  # fmt: skip


@pytest.mark.parametrize("depth", [2, 18, 19, 51])
def test_depth_must_be_6n_plus_2(depth):
    with pytest.raises(ValueError, match=rf"depth={depth} must be 6 n \+ 2"):
        CifarResNet(depth)


def test_post_activated_convolutions_start_by_what_enters_them():
    """kaiming_normal_'s default, as the code of arXiv 2202.07052 calls it."""
    torch.manual_seed(0)
    weight = CifarResNet(20, post_activation=True).layer3[0].conv1.weight  # 32 to 64 channels
    assert weight.std().item() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.02)
