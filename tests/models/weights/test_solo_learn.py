"""Checkpoints in the layout of vturrisi/solo-learn: solo/methods/base.py, solo/utils/checkpointer.py.

Its methods save no hyperparameters, but name the optimizer's parameter groups.
"""

import argparse

import pytest
import torch
from helpers.networks import prefixed, saved
from torch import nn

from sslortho.models import create_backbone, read_weights, restore_backbone

GROUPS = ["backbone", "classifier", "projector"]


def checkpoint(name="backbone", groups=None, settings=None, stem="solo_learn", **others):
    """Content of a Lightning checkpoint: named groups in one optimizer, perhaps hyperparameters."""
    parameter = nn.Parameter(torch.zeros(1))
    options = [{"params": [nn.Parameter(parameter.clone())], **({"name": g} if g else {})}
               for g in groups or [None]]  # fmt: skip
    optimizer = torch.optim.SGD(options, lr=0.1)
    state = prefixed(f"{name}.", create_backbone("resnet18", stem, seed=0))
    state |= {"classifier.weight": torch.zeros(10, 512), "classifier.bias": torch.zeros(10)}
    state |= {"projector.0.weight": torch.zeros(8, 512)}
    content = {"epoch": 1, "pytorch-lightning_version": "2.1.2", "state_dict": state,
               "optimizer_states": [optimizer.state_dict()], **others}  # fmt: skip
    return content if settings is None else {**content, "hyper_parameters": settings}


NESTED = {"method": "simclr", "backbone": {"name": "resnet18", "kwargs": {}},
          "data": {"dataset": "cifar100", "num_classes": 100}}  # fmt: skip
FLAT = {"method": "byol", "encoder": "resnet18", "dataset": "cifar10"}


@pytest.mark.parametrize(
    "options",
    [
        {"groups": GROUPS},
        {"groups": ["encoder", "classifier", "projector", "predictor"], "name": "encoder"},
        {"groups": ["backbone", "backbone_no_decay", "classifier", "projector_no_decay"]},
        {"settings": NESTED},
        {"settings": {"cfg": NESTED}},
        {"settings": FLAT, "name": "encoder"},
        {"settings": argparse.Namespace(**FLAT)},
    ],
)
def test_its_own_structure_tells_the_padding(tmp_path, options):
    path = saved(tmp_path / "x.ckpt", checkpoint(**options))
    restored = restore_backbone(read_weights(path))
    assert (restored.name, restored.stem) == ("resnet18", "solo_learn")
    images = torch.randn(2, 3, 32, 32)
    # the network as its base.py makes it
    original = create_backbone("resnet18", "small", seed=0).eval()
    original.conv1.padding = (2, 2)
    with torch.no_grad():
        torch.testing.assert_close(restored.network(images), original(images), rtol=0, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"groups": ["backbone", "classifier"]},
        {"groups": GROUPS, "settings": {**NESTED, "data": {"dataset": "stl10"}}},
        {"settings": {"method": "mine", "dataset": "cifar10"}},
        {"settings": {"method": "simclr"}},
        {"groups": GROUPS, "stem": "small", "name": "net"},
    ],
)
@pytest.mark.parametrize("backbone", [None, "resnet18"])
def test_anybodys_lightning_module_is_asked_about(tmp_path, options, backbone):
    path = saved(tmp_path / "x.ckpt", checkpoint(**options))
    message = r"x\.ckpt' has a 3x3 first convolution .*stem='small' pads by 1.*stem='solo_learn' pads by 2"
    with pytest.raises(ValueError, match=message):
        restore_backbone(read_weights(path), backbone)
    for stem in ("small", "solo_learn"):
        assert restore_backbone(read_weights(path), backbone, stem).stem == stem


def test_a_plain_file_is_asked_about_unless_its_stem_is_stock(tmp_path):
    path = saved(tmp_path / "x.pth", create_backbone("resnet18", "small").state_dict())
    with pytest.raises(ValueError, match="give stem: stem='small'"):
        restore_backbone(read_weights(path))
    path = saved(tmp_path / "y.pth", create_backbone("resnet18").state_dict())
    assert restore_backbone(read_weights(path)).stem == "stock"


def test_stock_stems_of_solo_learn_stay_stock(tmp_path):
    path = saved(tmp_path / "x.ckpt", checkpoint(groups=GROUPS, stem="stock"))
    assert restore_backbone(read_weights(path)).stem == "stock"


@pytest.mark.parametrize(
    ("given", "stem"), [("auto", "small"), ("small", "small"), ("solo_learn",) * 2]
)
def test_our_own_checkpoints_know_their_stem(tmp_path, given, stem):
    state = prefixed("backbone.", create_backbone("resnet18", stem))
    path = saved(tmp_path / "step-1.pt", {"task": state, "config": {"stem": given}})
    assert restore_backbone(read_weights(path)).stem == stem
