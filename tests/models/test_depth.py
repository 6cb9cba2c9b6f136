"""Layers by depth, compared with timm's rates by layer."""

import pytest
import timm
import torch
import torchvision
from timm.optim import param_groups_layer_decay
from torch import nn

from sslortho.models import create_backbone
from sslortho.models.depth import list_layers


def depths(network):
    """Depth of each parameter, by name."""
    by_id = {id(p): d for d, layer in enumerate(list_layers(network)) for p in layer.parameters()}
    return {name: by_id[id(p)] for name, p in network.named_parameters()}


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224"])
def test_transformers_have_the_rates_of_timm(name):
    network = timm.create_model(name, num_classes=3, depth=4)
    theirs = {}
    for group in param_groups_layer_decay(network, layer_decay=0.5):
        theirs |= {id(p): group["lr_scale"] for p in group["params"]}
    network.head = nn.Identity()  # theirs counts it as the last layer, with a rate of 1
    count = len(list_layers(network))
    for name, depth in depths(network).items():
        parameter = network.get_parameter(name)
        assert 0.5 ** (count - depth) == theirs[id(parameter)], name


def test_residual_networks_count_blocks():
    found = depths(create_backbone("resnet18"))
    assert max(found.values()) == 8  # a stem and 4 * 2 blocks
    assert found["conv1.weight"] == found["bn1.weight"] == 0
    assert found["layer1.0.conv1.weight"] == found["layer1.0.bn2.bias"] == 1
    assert found["layer2.0.downsample.0.weight"] == 3
    assert found["layer4.1.conv2.weight"] == 8


@pytest.mark.parametrize(
    ("name", "count"),
    [("resnet20", 10), ("resnet20_postact", 10), ("vit_small_32", 7), ("vgg11", 10)],
)
def test_number_of_layers(name, count):
    """Blocks and stem; VGG-11 has 8 convolutions and two of its three dense layers."""
    assert len(list_layers(create_backbone(name))) == count


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("regnet_x_400mf", 1 + 2 + 7 + 12 + 2),
        ("regnet_y_400mf", 1 + 3 + 6 + 6 + 2),
        ("shufflenet_v2_x0_5", 4 + 8 + 4 + 3),
        ("mobilenet_v3_small", 11 + 4),
    ],
)
def test_convolutions_inside_a_block_are_no_layers(name, count):
    """Blocks of the stages by the papers, with the stem and what stands behind them."""
    assert len(list_layers(torchvision.models.get_model(name, weights=None))) == count


def test_a_stage_that_is_no_sequence_has_its_blocks():
    network = timm.create_model("regnetx_002", num_classes=0)
    assert len(list_layers(network)) == 1 + 1 + 1 + 4 + 7


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_t", "densenet121", "mobilenet_v3_small"])
def test_every_parameter_has_one_depth_and_they_rise(name):
    network = torchvision.models.get_model(name, weights=None)
    layers = list_layers(network)
    counted = [id(p) for layer in layers for p in layer.parameters()]
    assert len(counted) == len(set(counted)) == len(list(network.parameters()))
    assert len(layers) > 10
    assert list(depths(network).values()) == sorted(depths(network).values())


def test_what_wraps_a_network_is_no_layer():
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3))
    )
    assert list(depths(network).values()) == [0, 0, 0, 0, 1, 1]


def test_a_single_layer_is_one():
    assert list(depths(nn.Conv2d(3, 4, 3)).values()) == [0, 0]


def test_loose_parameters_are_of_the_first_layer():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
            self.position = nn.Parameter(torch.zeros(4, 2))

    found = depths(Net())
    assert found["position"] == found["first.weight"] == 0
    assert found["second.weight"] == 1
