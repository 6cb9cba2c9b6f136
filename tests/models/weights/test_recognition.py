"""Networks of torchvision and VICReg, recognised and loaded without a name."""

import pytest
import torch
import torchvision
from helpers.networks import prefixed, saved, trained, weights
from torch import nn
from torchvision.models.resnet import Bottleneck

from sslortho.models import (
    create_backbone,
    export_backbone,
    read_weights,
    recognise,
    restore_backbone,
)
from sslortho.models.network_facts import required_size
from sslortho.models.torchvision_networks import MIXED_INPUT, torchvision_names
from sslortho.models.wide_resnet import WIDE_RESNETS


def last_inputs(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Input of a classifier's last linear layer, which torchvision's own model computes."""
    found: list[torch.Tensor] = []
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    handle = last.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    with torch.no_grad():
        model(images)
    handle.remove()
    return found[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [("vit_b_32", 224), ("convnext_tiny", 64), ("swin_t", 64), ("swin_v2_t", 64), ("regnet_y_400mf", 64),
     ("efficientnet_b0", 64), ("mobilenet_v2", 64), ("mobilenet_v3_small", 64), ("mnasnet0_5", 64),
     ("shufflenet_v2_x0_5", 64), ("googlenet", 64), ("resnet152", 64), ("densenet169", 64)],
)  # fmt: skip
def test_features_are_those_before_the_classifier(tmp_path, name, size):
    options = {"init_weights": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    images = torch.randn(2, 3, size, size)
    path = saved(tmp_path / "x.pth", {"model": prefixed("module.", model)})
    restored = restore_backbone(read_weights(path))
    assert restored.name == name
    with torch.no_grad():
        ours = restored.network(images)
    torch.testing.assert_close(ours, last_inputs(model, images).flatten(1), rtol=0, atol=0)


LARGE_REGNETS = [n for n in torchvision_names() if n.startswith("regnet") and n.endswith("gf")]
"""Networks up to gigabytes, made with their numbers; the smaller ones of their family stand for them."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in torchvision_names() if n not in LARGE_REGNETS])
def test_every_network_of_torchvision_is_recognised_alone(name):
    options = {"init_weights": False} if name in MIXED_INPUT else {}
    # RegNet computes its widths with tensors
    with torch.device("cpu" if "regnet" in name else "meta"):
        model = torchvision.models.get_model(name, weights=None, **options)
    assert recognise(weights(prefixed("encoder.", model))) == [(name, "stock")]


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 384])
def test_vision_transformers_for_images_of_another_size(tmp_path, size):
    model = torchvision.models.vit_b_32(image_size=size).eval()
    images = torch.randn(1, 3, size, size)
    restored = restore_backbone(weights(model.state_dict()))
    assert (restored.name, restored.image_size) == ("vit_b_32", size)
    assert required_size(restored.network) == size
    with torch.no_grad():
        ours = restored.network(images)
    torch.testing.assert_close(ours, last_inputs(model, images), rtol=0, atol=0)
    _, line = export_backbone(restored, "torchvision", tmp_path / "x.pth")
    assert f"torchvision.models.vit_b_32(image_size={size})" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("densenet121", [(f"{kind}{i}.", f"{kind}.{i}.") for kind in ("norm", "conv") for i in (1, 2)]),
        ("vit_b_32", [("mlp.0.", "mlp.linear_1."), ("mlp.3.", "mlp.linear_2.")]),
    ],
)  # fmt: skip
def test_former_names_of_torchvisions_published_files(name, changes):
    model = torchvision.models.get_model(name, weights=None).eval()
    state = model.state_dict()
    for new, old in changes:
        state = {key.replace(new, old) if ("denselayer" in key or "mlp" in key) else key: value
                 for key, value in state.items()}  # fmt: skip
    assert set(state) != set(model.state_dict())
    restored = restore_backbone(weights(state))
    assert restored.name == name
    ours = restored.network.state_dict()
    expected = {key: value for key, value in model.state_dict().items() if key in ours}
    torch.testing.assert_close(dict(ours), expected, rtol=0, atol=0)


class VicregResNet(nn.Module):
    """Names and arithmetic of facebookresearch/vicreg, resnet.py: a padding of 1, then one of 2."""

    def __init__(self, blocks, factor: int) -> None:
        super().__init__()
        self.padding, width = nn.ConstantPad2d(1, 0.0), 64 * factor
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=2, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(width), nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = width
        for stage, count in enumerate(blocks):
            outputs, stride = width * 2**stage, 1 if stage == 0 else 2
            down = nn.Sequential(
                nn.Conv2d(inputs, 4 * outputs, 1, stride, bias=False), nn.BatchNorm2d(4 * outputs)
            )
            first = Bottleneck(inputs, outputs, stride, down)
            inputs = 4 * outputs
            rest = (Bottleneck(inputs, outputs) for _ in range(count - 1))
            setattr(self, f"layer{stage + 1}", nn.Sequential(first, *rest))
        self.avgpool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(self.padding(x)))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.avgpool(x).flatten(1)


@pytest.mark.slow
def test_vicregs_wide_network_gives_its_features(tmp_path):
    original = trained(VicregResNet((3, 4, 6, 3), 2))
    path = saved(tmp_path / "resnet50x2.pth", original.state_dict())
    restored = restore_backbone(read_weights(path))
    assert restored.name == "resnet50x2"
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(restored.network(images), original(images), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDE_RESNETS)
def test_every_wide_network_is_recognised(name):
    with torch.device("meta"):
        model = VicregResNet(*WIDE_RESNETS[name])
    assert recognise(weights(prefixed("module.backbone.", model))) == [(name, "stock")]


def test_the_nearest_network_is_named_for_another_number_of_channels():
    with torch.device("meta"):
        state = create_backbone("resnet18").state_dict()
        state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    message = (
        r"no network of ours or torchvision's \(the nearest is resnet18; of another shape: "
        r"conv1\.weight \(64, 1, 7, 7\) there, \(64, 3, 7, 7\) here\)"
    )
    with pytest.raises(ValueError, match=message):
        restore_backbone(weights(state))


@pytest.mark.parametrize("name", ["alexnet", "resnet50x4", "timm:resnet10t"])
def test_a_stem_for_others_is_an_error(name):
    with pytest.raises(ValueError, match=f"stem='small' has no effect on backbone='{name}'"):
        restore_backbone(weights({}), name, "small")


def test_image_sizes_are_for_vision_transformers():
    with pytest.raises(ValueError, match="image_size=64 has no effect on backbone='resnet18'"):
        create_backbone("resnet18", image_size=64)
    with pytest.raises(ValueError, match="image_size=64 has no effect on backbone='resnet20'"):
        create_backbone("resnet20", image_size=64)
    with pytest.raises(ValueError, match="image_size=0 is not a multiple of 16"):
        create_backbone("vit_b_16", image_size=0)
    with pytest.raises(ValueError, match="image_size=65 is not a multiple of 16"):
        create_backbone("vit_b_16", image_size=65)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.complex64])
def test_numbers_that_are_no_weights_are_refused(dtype):
    state = create_backbone("basic_cnn").state_dict()
    state["features.3.weight"] = state["features.3.weight"].to(dtype)
    with pytest.raises(
        ValueError, match=r"has features\.3\.weight as torch\.\w+, which is not the kind"
    ):
        restore_backbone(weights(state))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_loaded_as_float32(dtype):
    network = trained(create_backbone("basic_cnn")).to(dtype)
    restored = restore_backbone(weights(network.state_dict()))
    expected = {name: value.to(torch.float32) if value.is_floating_point() else value
                for name, value in network.state_dict().items()}  # fmt: skip
    torch.testing.assert_close(dict(restored.network.state_dict()), expected, rtol=0, atol=0)
