"""Networks and projectors that a user hands over: how their output is read, and what stays untouched."""

import random
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from sslortho.models.own_networks import (
    FeatureReader,
    GivenBackbone,
    copy_module,
    plain_network,
    read_as_features,
)
from sslortho.models.own_projectors import create_projector


class Plain(nn.Module):
    """Features (batch, 5) with everything that a run could disturb: statistics, dropout, a counter."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images):
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        return self.dropout(self.norm(self.conv(images))).mean(dim=(2, 3))


class Gives(nn.Module):
    """A module with a given output for 2 images, and one parameter."""

    def __init__(self, output):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.output = output

    def forward(self, images):
        return self.output


def vit(**settings):
    config = transformers.ViTConfig(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16,
        patch_size=8,
    )  # fmt: skip
    return transformers.ViTModel(config, **settings)


def test_features_are_taken_as_they_are():
    network = Plain()
    assert read_as_features(network, 16) is network


def test_the_trial_leaves_statistics_modes_and_generators():
    network = Plain()
    network.norm.eval()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    read_as_features(network, 16)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert random.getstate() == before[2]


def test_a_map_is_averaged_over_its_places():
    network = nn.Conv2d(3, 4, 3, stride=2)
    backbone = read_as_features(network, 16)
    images = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(backbone(images), network(images).flatten(2).mean(2))
    assert plain_network(backbone) is network


def test_transformers_vit_gives_its_pooled_output():
    network = vit().eval()
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(read_as_features(network, 16)(images), network(images).pooler_output)


def test_transformers_vit_without_a_pooler_gives_its_class_token():
    network = vit(add_pooling_layer=False).eval()
    images = torch.randn(2, 3, 16, 16)
    found = read_as_features(network, 16)(images)
    assert torch.equal(found, network(images).last_hidden_state[:, 0])


def test_transformers_convolutional_networks_are_flattened():
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1])
    network = transformers.ResNetModel(config).eval()
    images = torch.randn(2, 3, 32, 32)
    found = read_as_features(network, 32)(images)
    assert torch.equal(found, network(images).pooler_output.flatten(1))


def test_tokens_without_a_class_token_are_averaged():
    tokens = torch.randn(2, 7, 5)
    network = Gives(SimpleNamespace(last_hidden_state=tokens, pooler_output=None))
    assert torch.equal(read_as_features(network, 8)(None), tokens.mean(dim=1))


def test_a_last_map_is_averaged():
    network = Gives(SimpleNamespace(last_hidden_state=torch.randn(2, 5, 3, 3)))
    assert read_as_features(network, 8)(None).shape == (2, 5)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.zeros(2, 7, 5), r"shape \(2, 7, 5\).*wrap it"),
        (torch.zeros(2, 5, dtype=torch.int64), "int64"),
        (torch.zeros(3, 5), r"shape \(3, 5\)"),
        ((torch.zeros(2, 5),), "a tuple of 1"),
        (OrderedDict(out=torch.zeros(2, 5)), "OrderedDict of out"),
        (SimpleNamespace(logits=torch.zeros(2, 5)), "it is a classifier; give the network below"),
        (None, "a NoneType"),
    ],
)
def test_other_outputs_are_errors(output, message):
    with pytest.raises(ValueError, match=message):
        read_as_features(Gives(output), 8)


def test_a_network_of_another_size_is_an_error_with_its_own():
    with pytest.raises(ValueError, match=r"does not take images .*give crop_size=16, its own"):
        read_as_features(vit(), 32)


def test_copies_are_float32_and_share_nothing():
    module = nn.Linear(2, 2).half()
    copied = copy_module(module, "model")
    with torch.no_grad():
        copied.weight.zero_()
    assert copied.weight.dtype == torch.float32
    assert module.weight.dtype == torch.float16
    assert module.weight.abs().sum() > 0


def test_what_wraps_a_module_stays_behind():
    module = nn.Linear(2, 2)
    assert type(copy_module(torch.compile(module), "model")) is nn.Linear
    assert type(copy_module(nn.DataParallel(module), "model")) is nn.Linear


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.LazyConv2d(4, 3), "lazy parameters"),
        (nn.Conv2d(3, 4, 3, device="meta"), "meta device"),
        (nn.Flatten(), "no parameters to train"),
        (nn.Conv2d(3, 4, 3).requires_grad_(False), "no parameters to train; all are frozen"),
    ],
)
def test_modules_that_cannot_train_are_errors(module, message):
    with pytest.raises(ValueError, match=message):
        GivenBackbone(module, 8).create()


def test_each_creation_is_a_copy_and_seeds_the_generator():
    module = nn.Conv2d(3, 4, 3)
    source = GivenBackbone(module, 8, seed=5)
    first, after = source.create(), torch.rand(3)
    second = source.create()
    assert isinstance(first, FeatureReader)
    assert first.network is not second.network
    assert torch.equal(first.network.weight, module.weight)
    assert torch.equal(after, torch.rand(3))
    assert torch.equal(after, torch.rand(3, generator=torch.Generator().manual_seed(5)))
    assert "mean over the places" in str(source)


def test_projectors_are_copies_or_made():
    module = nn.Linear(4, 6)
    copied = create_projector(module, 4)
    assert copied is not module
    assert torch.equal(copied.weight, module.weight)
    assert create_projector(lambda dim: nn.Linear(dim, 9), 4).out_features == 9
    assert create_projector(nn.Identity(), 4)(torch.ones(1, 4)).shape == (1, 4)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (nn.Linear(3, 6), r"does not take features \(2, 4\)"),
        (lambda dim: 3, "a function must give a torch.nn.Module"),
        (
            nn.Linear,
            r"projector=Linear: called with the number of features, 4, it raises TypeError",
        ),
        (nn.Unflatten(1, (2, 2)), r"gives a tensor of shape \(2, 2, 2\)"),
    ],
)
def test_projectors_that_do_not_fit_are_errors(source, message):
    with pytest.raises(ValueError, match=message):
        create_projector(source, 4)


def test_a_classifier_at_the_end_is_said():
    classifier = nn.Sequential()
    classifier.add_module("body", nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5)))
    classifier.add_module("fc", nn.Linear(5, 7))
    assert "7 numbers. Its last layer 'fc' looks like a" in str(GivenBackbone(classifier, 8))
    classifier.fc = nn.Identity()
    assert str(GivenBackbone(classifier, 8)).endswith("features: its output, 5 numbers")


def test_a_network_of_grey_images_is_named():
    with pytest.raises(ValueError, match=r"does not take images of 3 channels, .* has 1; wrap"):
        read_as_features(nn.Conv2d(1, 4, 3), 8)
