"""Checkpoints with objects that torch refuses to read, harmless and malicious."""

import argparse
import collections
import dataclasses
import functools
import itertools
import os
import pickle
import re
import subprocess
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from helpers.networks import check, features, prefixed, saved, trained, weights
from torch import nn

from sslortho.models import (
    create_backbone,
    load_backbone,
    read_weights,
    recognise,
    restore_backbone,
)
from sslortho.models.cifar_resnet import BasicCNN
from sslortho.models.weights.torch_file import CONTAINERS, InertDict, load_torch_file


@pytest.fixture(scope="module")
def solo_learns(tmp_path_factory):
    """Checkpoint of Lightning's Trainer, of a module like solo-learn's for CIFAR; and its backbone."""
    import pytorch_lightning
    from omegaconf import OmegaConf
    from torch.utils.data import DataLoader

    class Method(pytorch_lightning.LightningModule):
        def __init__(self, cfg) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.backbone = torchvision.models.resnet18()
            self.backbone.fc = nn.Identity()
            self.backbone.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=2, bias=False)
            self.backbone.maxpool = nn.Identity()
            self.classifier = nn.Linear(512, 2)
            self.projector = nn.Sequential(nn.Linear(512, 8), nn.BatchNorm1d(8))

        def training_step(self, batch, batch_idx):
            return self.classifier(self.backbone(batch)).square().mean()

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.classifier.parameters(), lr=0.1, momentum=0.9)
            return [optimizer], [torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 10)]

    folder = tmp_path_factory.mktemp("lightning")
    options = {"data": {"dataset": "cifar10", "num_classes": 2}, "sizes": [8, "${method}"],
               "method": "barlow_twins", "none": None}  # fmt: skip
    cfg = OmegaConf.create(options)
    assert cfg.sizes[1] == "barlow_twins"
    model = Method(cfg)
    trained(model.backbone)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pytorch_lightning.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=folder, limit_train_batches=1,
        )  # fmt: skip
        trainer.fit(model, DataLoader(torch.randn(2, 3, 32, 32), batch_size=2))
        trainer.save_checkpoint(folder / "x.ckpt")
    return folder / "x.ckpt", model.backbone.eval()


@pytest.mark.slow
def test_lightning_with_a_dictconfig(solo_learns):
    path, backbone = solo_learns
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    file = read_weights(path)
    assert file.lightning
    assert "omegaconf.dictconfig.DictConfig" in file.left_out
    assert recognise(file) == [("resnet18", "small")]
    report = check(create_backbone("resnet18", "solo_learn"), path, backbone)
    assert str(report) == (
        "x.ckpt (state_dict): 120 tensors of the backbone under 'backbone.'; "
        "not used: classifier (2), projector (7)"
    )


@pytest.mark.slow
def test_solo_learns_stem_is_known_from_its_settings(solo_learns):
    path, backbone = solo_learns
    restored = restore_backbone(read_weights(path))
    assert (restored.name, restored.stem, restored.report.notes) == ("resnet18", "solo_learn", ())
    torch.testing.assert_close(features(restored.network), features(backbone), rtol=0, atol=0)


@pytest.mark.slow
def test_another_padding_than_the_files_is_a_note(solo_learns):
    path, backbone = solo_learns
    restored = restore_backbone(read_weights(path), stem="small")
    assert restored.stem == "small"
    assert restored.report.notes == (
        "solo-learn wrote it, whose CIFAR networks pad by 2: stem 'solo_learn' is theirs",
    )
    assert not torch.allclose(features(restored.network), features(backbone))


@pytest.mark.slow
def test_no_such_note_where_solo_learn_cannot_have_written():
    state = prefixed("backbone.", create_backbone("resnet18", "small"))
    network = create_backbone("resnet18", "small")
    assert load_backbone(network, weights(state, lightning=False)).notes == ()
    stock = prefixed("backbone.", create_backbone("resnet18"))
    assert load_backbone(create_backbone("resnet18"), weights(stock, lightning=True)).notes == ()


class Settings(dict):
    """Settings of a project's own: a dictionary with attributes."""

    __getattr__ = dict.__getitem__


@dataclasses.dataclass
class Options:
    lr: float = 0.1


def known_settings(monkeypatch, name: str) -> type:
    """A class like Settings under the name of one that many projects use."""
    module, _, own_name = name.rpartition(".")
    cls = type(own_name, (Settings,), {"__module__": module})
    for parent in itertools.accumulate(module.split("."), lambda a, b: f"{a}.{b}"):
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    monkeypatch.setattr(sys.modules[module], own_name, cls, raising=False)
    return cls


def other_objects(cls):
    settings = cls(lr=0.1, nested=cls(a=[1, 2]))
    settings.__dict__["frozen"] = True
    return {
        "args": argparse.Namespace(out=Path("/tmp/x"), sizes=[1, 2]),
        "best": np.float64(0.5),
        "array": np.arange(6).reshape(2, 3),
        "settings": settings,
        "defaults": collections.defaultdict(list, a=[1]),
        "queue": collections.deque([1, 2, 3], maxlen=5),
        "bound": settings.get,
        "class": cls,
        "partial": functools.partial(torch.optim.SGD, lr=0.1),
        "options": Options(),
        Path("key"): 1,
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_any_object_beside_the_weights(tmp_path, monkeypatch, zipped):
    network = trained(BasicCNN())
    objects = other_objects(known_settings(monkeypatch, "easydict.EasyDict"))
    content = {**objects, "state_dict": network.state_dict()}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    check(BasicCNN(), tmp_path / "x.pth", network)
    left_out = read_weights(tmp_path / "x.pth").left_out
    expected = {"argparse.Namespace", "collections.deque", "easydict.EasyDict"}
    assert {*expected, f"{__name__}.Options", "functools.partial"} <= set(left_out)
    allowed = [f"{a}.{b}" for a, b in (("collections", "OrderedDict"), ("torch", "FloatStorage"))]
    assert not {*allowed, "torch._utils._rebuild_tensor_v2"} & set(left_out)


@pytest.mark.parametrize("name", [name for name, kind in CONTAINERS.items() if kind is InertDict])
def test_settings_of_known_packages(tmp_path, monkeypatch, name):
    network = trained(BasicCNN())
    cls = collections.defaultdict if name.startswith("coll") else known_settings(monkeypatch, name)
    settings = cls()
    settings["lr"] = 0.1
    content = {"hyper_parameters": settings, "state_dict": network.state_dict()}
    check(BasicCNN(), saved(tmp_path / "x.ckpt", content), network)


class Names(list):
    pass


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("thing", [Settings(lr=0.1), Names(["a", "b"])], ids=["dict", "list"])
def test_a_container_of_an_unknown_class_is_named(tmp_path, thing, zipped):
    content = {"config": thing, "state_dict": BasicCNN().state_dict()}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    name = f"{__name__}.{type(thing).__name__}"
    message = rf"it holds a {re.escape(name)}, a kind of .*write torch\.save\(model\.state_dict\(\)"
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / "x.pth")


def test_stand_ins_are_forgotten_after(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    path = saved(tmp_path / "x.pth", {"a": argparse.Namespace(b=1), "w": torch.zeros(2, 2)})
    content, left_out = load_torch_file(path)
    assert left_out == ("argparse.Namespace",)
    assert not hasattr(content["a"], "b")
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


class Malicious:
    def __init__(self, *call) -> None:
        self.call = call

    def __reduce__(self):
        function, *arguments = self.call
        return function, tuple(arguments)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("attack", "refusal"),
    [
        (lambda path: Malicious(os.system, f"touch {path}"), r"posix\.system .* is blocked"),
        (lambda path: Malicious(os.mkdir, str(path)), r"posix\.mkdir .* is blocked"),
        (lambda path: Malicious(eval, f"open({str(path)!r}, 'w').close()"), None),
        (lambda path: Malicious(exec, f"open({str(path)!r}, 'w').close()"), None),
        (lambda path: Malicious(subprocess.call, ["touch", str(path)]), None),
        (lambda path: Malicious(path.touch), "unrecognized function .*getattr object"),
    ],
    ids=["os.system", "os.mkdir", "eval", "exec", "subprocess", "method"],
)
def test_a_malicious_file_runs_nothing(tmp_path, attack, refusal, zipped):
    proof, path = tmp_path / "proof", tmp_path / "x.pth"
    content = {"state_dict": BasicCNN().state_dict(), "args": attack(proof)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    torch.load(path, weights_only=False)
    assert proof.exists()  # what it does where it is let
    proof.rmdir() if proof.is_dir() else proof.unlink()
    if refusal:
        with pytest.raises(ValueError, match=f"cannot be read as weights .*{refusal}"):
            read_weights(path)
    else:
        load_backbone(BasicCNN(), read_weights(path))
    assert not proof.exists()
