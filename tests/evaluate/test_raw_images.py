"""A backbone with its own preprocessing: features of raw images are those of the evaluations."""

import copy
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import sslortho
from sslortho.evaluate.raw_images import with_preprocessing
from sslortho.models import BackboneInfo, write_backbone
from sslortho.models.cifar_resnet import BasicCNN

INFO = BackboneInfo(
    backbone="basic_cnn", stem="stock", crop_size=32, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)
)


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    write_backbone(BasicCNN(), tmp_path / "w.safetensors", INFO)
    return tmp_path / "w.safetensors"


@pytest.mark.parametrize("side", [32, 120])
def test_features_of_files_are_those_that_embed_writes(weights, tmp_path, side):
    generator, files = np.random.default_rng(0), []
    (tmp_path / "photos").mkdir()
    for i in range(5):
        pixels = generator.integers(0, 256, (side, side + 3 * i * (side > 96), 3), dtype=np.uint8)
        files.append(tmp_path / "photos" / f"{i}.png")
        Image.fromarray(pixels).save(files[-1])
    model = sslortho.load_backbone(weights)
    expected = sslortho.extract_features(weights, tmp_path / "photos", threads=1)
    torch.testing.assert_close(model.embed(files), expected.features, rtol=1e-4, atol=1e-4)
    assert torch.equal(model.embed(files[0]), model.embed([Image.open(files[0])]))
    torch.testing.assert_close(
        model.embed(files, batch_size=2), expected.features, rtol=1e-4, atol=1e-4
    )
    views = torch.stack([model.preprocess(file) for file in files])
    with torch.no_grad():
        assert torch.equal(model.embed(files), model(views))


def test_the_network_stays_the_network(weights):
    model = sslortho.load_backbone(weights)
    assert isinstance(model, BasicCNN)
    assert list(model.state_dict()) == list(BasicCNN().state_dict())
    assert model.preprocess.mean == INFO.mean
    assert not model.preprocess.guessed
    model.train()
    image = np.zeros((40, 40, 3), np.uint8)
    first = model.embed(image)
    assert model.training
    assert torch.equal(model.embed(image), first)  # in evaluation mode, whose statistics stay
    assert not first.requires_grad


def test_a_copy_embeds_with_its_own_weights(weights):
    model = sslortho.load_backbone(weights)
    image = np.full((32, 32, 3), 90, np.uint8)
    before = model.embed(image)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.embed(image), before)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        assert not torch.equal(other.embed(image), before)
    assert torch.equal(model.embed(image), before)


def test_weights_that_do_not_say_their_views_are_guessed(tmp_path):
    torch.save(BasicCNN().state_dict(), tmp_path / "x.pt")
    model = sslortho.load_backbone(tmp_path / "x.pt", "basic_cnn")
    assert model.preprocess.guessed
    with pytest.warns(UserWarning, match="224 pixels"):
        model.preprocess(np.zeros((8, 8, 3), np.uint8))
    model.preprocess = sslortho.Preprocessing(crop_size=32, mean=(0, 0, 0), std=(1, 1, 1))
    assert model.embed(np.zeros((2, 8, 8, 3), np.uint8)).shape == (2, 512)


def test_a_network_with_a_part_of_that_name_keeps_it():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(3, 2)

        def forward(self, images):
            return self.embed(images.mean(dim=(2, 3)))

    network = Own()
    assert with_preprocessing(network).embed is network._modules["embed"]
    assert network(torch.zeros(2, 3, 4, 4)).shape == (2, 2)


def test_nothing_to_embed(weights):
    model = sslortho.load_backbone(weights)
    with pytest.raises(ValueError, match="images holds none"):
        model.embed([])
    for size in (-1, 0):
        with pytest.raises(ValueError, match=f"batch_size={size} must be 1 or more"):
            model.embed(np.zeros((2, 8, 8, 3), np.uint8), batch_size=size)
