"""Weights in the layouts of other projects, compared by the features that they give."""

import argparse
import re

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from helpers.networks import check, features, prefixed, resnet10, saved, trained, weights
from torch import nn
from torchvision.models.resnet import BasicBlock

from sslortho.models import (
    BACKBONES,
    BackboneInfo,
    choose_architecture,
    create_backbone,
    load_backbone,
    read_weights,
    recognise,
    restore_backbone,
    write_backbone,
)
from sslortho.models.backbones import TORCHVISION
from sslortho.models.cifar_resnet import BasicCNN, CifarResNet

INFO = BackboneInfo(
    backbone="resnet18", stem="small", crop_size=32, mean=(0.1, 0.2, 1 / 3), std=(0.4, 0.5, 0.6)
)


# Other projects'


class BarlowTwins(nn.Module):
    """Names as in facebookresearch/barlowtwins, main.py."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = nn.Sequential(nn.Linear(64, 8, bias=False), nn.BatchNorm1d(8))
        self.bn = nn.BatchNorm1d(8, affine=False)


def test_facebookresearch_barlowtwins(tmp_path):
    model = nn.Module()
    model.module = BarlowTwins(trained(resnet10()))  # as DistributedDataParallel names it
    parameters = [{"params": list(model.parameters())}]
    optimizer = torch.optim.SGD(parameters, lr=0.2)
    state = {"epoch": 1, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    path = saved(tmp_path / "checkpoint.pth", state)
    report = check(resnet10(), path, model.module.backbone)
    assert str(report) == (
        "checkpoint.pth (model): 72 tensors of the backbone under 'module.backbone.'; "
        "not used: module.projector (6), module.bn (3)"
    )
    final = saved(tmp_path / "resnet50.pth", model.module.backbone.state_dict())
    assert check(resnet10(), final, model.module.backbone).prefix == ""


def test_torchvision_with_its_classifier(tmp_path):
    network = trained(torchvision.models.ResNet(BasicBlock, [1, 1, 1, 1]))
    path = saved(tmp_path / "resnet.pth", network.state_dict())
    network.fc = nn.Identity()
    report = check(resnet10(), path, network)
    assert report.unused == {"fc": 2}


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto"])
def test_timm_with_its_classifier(tmp_path, name):
    """ConvNeXt's classifier lies in a module `head`, whose norm belongs to the features."""
    network = trained(timm.create_model(name, num_classes=10))
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(network.state_dict(), path, {"format": "pt"})
    network.reset_classifier(0)
    report = check(create_backbone(f"timm:{name}"), path, network)
    assert sum(report.unused.values()) == 2


def test_lightly_numbers_the_children(tmp_path):
    resnet = trained(resnet10())
    model = nn.Module()
    model.backbone = nn.Sequential(*list(resnet.children())[:-1])
    model.projection_head = nn.Sequential(nn.Linear(512, 8), nn.BatchNorm1d(8))
    state = model.state_dict()
    assert "backbone.4.0.conv1.weight" in state
    path = saved(tmp_path / "last.ckpt", {"state_dict": state})
    assert check(resnet10(), path, resnet).prefix == "backbone."
    alone = saved(tmp_path / "alone.pth", model.backbone.state_dict())
    assert check(resnet10(), alone, resnet).prefix == ""


# Recognised


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_is_recognised(name):
    with torch.device("meta"):
        ours = create_backbone(name)
        if name in TORCHVISION:
            theirs = torchvision.models.get_model(name, weights=None)
        elif name == "vit_small_32":
            theirs = timm.create_model(  # with a head
                "vit_tiny_patch16_224", img_size=32, patch_size=4, depth=6, global_pool="avg"
            )
        else:
            depth, post = name.removeprefix("resnet").partition("_")[::2]
            theirs = (
                BasicCNN(10)
                if name == "basic_cnn"
                else CifarResNet(int(depth), 10, post_activation=bool(post))
            )
    for network in (ours, theirs):
        for prefix in ("", "module.backbone."):
            file = weights({**prefixed(prefix, network), "projector.0.weight": torch.zeros(2, 2)})
            assert recognise(file) == [(name, "stock")]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_numbered_children_are_recognised(name):
    with torch.device("meta"):
        resnet = torchvision.models.get_model(name, weights=None)
    model = nn.Sequential(*list(resnet.children())[:-1])
    assert recognise(weights(prefixed("backbone.", model))) == [(name, "stock")]


@pytest.mark.parametrize("name", TORCHVISION)
def test_every_small_stem_is_recognised(name):
    with torch.device("meta"):
        stems = ("small",) if name.startswith("densenet") else ("small", "solo_learn")
        states = [create_backbone(name, stem).state_dict() for stem in stems]
    for state in states:
        assert recognise(weights(state)) == [(name, "small")]


def test_others_are_not_recognised():
    with torch.device("meta"):
        file = weights(timm.create_model("convnext_atto").state_dict())
    assert recognise(file) == []


def test_several_networks_in_one_file():
    with torch.device("meta"):
        student, teacher = CifarResNet(20), CifarResNet(56)
    file = weights(prefixed("student.", student) | prefixed("big.", teacher))
    assert recognise(file) == [("resnet20", "stock"), ("resnet56", "stock")]
    assert recognise(file, "big") == [("resnet56", "stock")]
    with pytest.raises(ValueError, match=r"several networks: \[\('resnet20'.*give backbone"):
        choose_architecture(file)


@pytest.mark.parametrize("backbone", [None, "resnet18"])
def test_one_network_with_both_stems_is_asked_for(backbone):
    with torch.device("meta"):
        stock, small = create_backbone("resnet18"), create_backbone("resnet18", "small")
    file = weights(prefixed("a.", stock) | prefixed("b.", small))
    with pytest.raises(ValueError, match=r"7x7.*3x3.*say which by weights_prefix or stem"):
        choose_architecture(file, backbone)
    for stem in ("stock", "small", "solo_learn"):
        assert choose_architecture(file, backbone, stem) == ("resnet18", stem)
    assert choose_architecture(file, backbone, prefix="a") == ("resnet18", "stock")


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({}, ("resnet18", "small")),
        ({"stem": "solo_learn"}, ("resnet18", "solo_learn")),
        ({"backbone": "resnet18"}, ("resnet18", "small")),
        ({"backbone": "resnet50"}, ("resnet50", "stock")),
        ({"backbone": "timm:resnet18"}, ("timm:resnet18", "stock")),
        ({"backbone": "resnet20", "stem": "stock"}, ("resnet20", "stock")),
    ],
)
@pytest.mark.parametrize("known", [{"info": INFO}, {"small_stem": "small"}])
def test_architecture_as_given_as_the_file_says_or_as_recognised(given, chosen, known):
    with torch.device("meta"):
        file = weights(create_backbone("resnet18", "small").state_dict(), **known)
    assert choose_architecture(file, **given) == chosen


def test_a_stem_without_effect():
    with pytest.raises(ValueError, match="stem='small' has no effect on backbone='resnet20'"):
        choose_architecture(weights({}), "resnet20", "small")


@pytest.mark.slow
def test_restored_with_what_the_file_says(tmp_path):
    network = trained(create_backbone("resnet18", "small"))
    write_backbone(network, tmp_path / "backbone.safetensors", INFO)
    restored = restore_backbone(read_weights(tmp_path))
    assert (restored.name, restored.stem, restored.info) == ("resnet18", "small", INFO)
    assert not restored.network.training
    torch.testing.assert_close(features(restored.network), features(network))


# Several that fit


@pytest.mark.parametrize(
    ("online", "copy"),
    [
        ("backbone.", "momentum_backbone."),
        ("module.encoder_q.", "module.encoder_k."),
        ("module.base_encoder.", "module.momentum_encoder."),
        ("online_network.", "target_network."),
        ("model.", "model_ema.module."),
        ("state_dict.", "state_dict_ema."),
        ("model.", "swa_model.module."),
    ],
)
def test_not_the_moving_average(tmp_path, online, copy):
    first, second = trained(BasicCNN(), 0), trained(BasicCNN(), 1)
    path = saved(tmp_path / "x.pth", prefixed(copy, second) | prefixed(online, first))
    report = check(BasicCNN(), path, first)
    assert report.prefix == online
    assert report.notes == (
        f"took {online!r}, not its moving average: weights_prefix={copy!r} takes that",
    )
    assert report.notes[0] in str(report)
    for prefix in (copy, copy[:-1]):
        report = check(BasicCNN(), path, second, prefix)
        assert (report.prefix, report.notes) == (copy, ())


def test_dinos_teacher_is_evaluated(tmp_path):
    """The layout of facebookresearch/dino, main_dino.py: the student lies in DistributedDataParallel."""
    student, teacher = trained(BasicCNN(), 0), trained(BasicCNN(), 1)
    content = {"student": prefixed("module.backbone.", student),
               "teacher": prefixed("backbone.", teacher), "epoch": 3,
               "args": argparse.Namespace(arch="x")}  # fmt: skip
    path = saved(tmp_path / "checkpoint.pth", content)
    report = check(BasicCNN(), path, teacher)
    assert report.prefix == "teacher.backbone."
    assert report.unused == {"student": 21}
    assert str(report).endswith(
        "\ntook 'teacher.backbone.', the teacher, as DINO evaluates: "
        "weights_prefix='student.module.backbone.' takes the other"
    )
    assert check(BasicCNN(), path, student, "student.module.backbone").notes == ()


@pytest.mark.parametrize(
    ("taken", "other", "reason"),
    [
        ("teacher_backbone.", "student_backbone.", "the teacher, as DINO evaluates"),
        ("backbone.", "student_backbone.", "the teacher, as DINO evaluates"),
        ("teacher.backbone._orig_mod.", "student.backbone.", "the teacher, as DINO evaluates"),
        ("target_encoder.module.", "encoder.module.", "the target encoder, as MSN and V-JEPA"),
        ("state_dict.backbone.", "current_model_state.backbone.", "the average, as Lightning"),
    ],
)
def test_what_its_project_evaluates(tmp_path, taken, other, reason):
    first, second = trained(BasicCNN(), 0), trained(BasicCNN(), 1)
    path = saved(tmp_path / "x.pth", prefixed(other, second) | prefixed(taken, first))
    report = check(BasicCNN(), path, first)
    assert report.prefix == taken
    [note] = report.notes
    assert note.startswith(f"took {taken!r}, {reason}")
    assert note.endswith(f"weights_prefix={other!r} takes the other")
    assert check(BasicCNN(), path, second, other).prefix == other


def test_online_network_and_target_are_byols_not_jepas(tmp_path):
    online, target = trained(BasicCNN(), 0), trained(BasicCNN(), 1)
    state = prefixed("online_encoder.", online) | prefixed("target_encoder.", target)
    report = check(BasicCNN(), saved(tmp_path / "x.pth", state), online)
    assert report.prefix == "online_encoder."


def test_several_moving_averages_are_all_named():
    state = {}
    for seed, name in enumerate(("model.", "model_ema.", "swa_model.module.")):
        state |= prefixed(name, trained(BasicCNN(), seed))
    [note] = load_backbone(BasicCNN(), weights(state)).notes
    assert note == (
        "took 'model.', not its moving averages: weights_prefix='model_ema.' or "
        "weights_prefix='swa_model.module.' takes one of them"
    )


@pytest.mark.parametrize("names", [("student.", "teacher.", "ema_teacher."),
                                   ("student.a.", "student.b."), ("encoder.", "head.")])  # fmt: skip
def test_teachers_that_cannot_be_told_are_asked_for(names):
    state = {}
    for seed, name in enumerate(names):
        state |= prefixed(name, trained(BasicCNN(), seed))
    with pytest.raises(
        ValueError, match=r"several such networks, under .* say which by weights_prefix"
    ):
        load_backbone(BasicCNN(), weights(state))


def test_a_moving_average_alone_is_taken(tmp_path):
    network = trained(BasicCNN())
    path = saved(tmp_path / "x.pth", prefixed("momentum_backbone.", network))
    assert check(BasicCNN(), path, network).notes == ()


def test_two_names_of_one_network(tmp_path):
    network, average = trained(BasicCNN(), 0), trained(BasicCNN(), 1)
    twice = prefixed("net.0.", network) | prefixed("backbone.", network)
    path = saved(tmp_path / "x.pth", twice)
    assert check(BasicCNN(), path, network).notes == ()
    path = saved(tmp_path / "y.pth", prefixed("ema.", average) | twice)
    assert check(BasicCNN(), path, network).notes[0].endswith("weights_prefix='ema.' takes that")


@pytest.mark.parametrize("names", [("a.", "b."), ("teacher.", "target."), ("a.", "b.", "ema.")])
def test_several_of_equal_right_are_an_error(names):
    state = {}
    for seed, name in enumerate(names):
        state |= prefixed(name, trained(BasicCNN(), seed))
    listed = ", ".join(re.escape(repr(name)) for name in names)
    with pytest.raises(ValueError, match=rf"'there.pth'.*{listed}; say which by weights_prefix"):
        load_backbone(BasicCNN(), weights(state))


# Mistakes


def test_another_architecture_is_named():
    file = weights(prefixed("backbone.", create_backbone("resnet20")))
    with pytest.raises(ValueError, match="does not fit the backbone") as caught:
        load_backbone(create_backbone("resnet18"), file)
    message = str(caught.value)
    assert "backbone_from='there.pth'" in message
    assert re.search(r"\d+ of the backbone's 100 tensors are in it under 'backbone\.'", message)
    assert "missing: bn1.weight, bn1.bias, bn1.running_mean and" in message
    assert "conv1.weight (16, 3, 3, 3) there, (64, 3, 7, 7) here" in message
    assert message.endswith("these weights fit backbone='resnet20', stem='stock'")


@pytest.mark.parametrize(
    ("larger", "smaller"), [("resnet34", "resnet18"), ("resnet56", "resnet20")]
)
def test_a_larger_network_is_not_cut_down(larger, smaller):
    """Every name of the smaller network is one of the larger, with the same shape."""
    file = weights(create_backbone(larger).state_dict())
    message = f"layers that the backbone lacks: layer1.*fit backbone='{larger}'"
    with pytest.raises(ValueError, match=message):
        load_backbone(create_backbone(smaller), file)


def test_missing_tensors_are_counted():
    state = prefixed("backbone.", BasicCNN())
    del state["backbone.features.0.weight"], state["backbone.features.4.running_var"]
    message = (
        r"16 of the backbone's 18 tensors are in it under 'backbone\.'; missing: features\.0\.weight, "
        r"features\.4\.running_var; these weights fit none .* names begin with backbone\.features$"
    )
    with pytest.raises(ValueError, match=message):
        load_backbone(BasicCNN(), weights(state))


def test_another_shape_is_named():
    file = weights(create_backbone("resnet18", "small").state_dict())
    message = (
        r"99 of the backbone's 100 .*of another shape: conv1\.weight \(64, 3, 3, 3\) there, "
        r"\(64, 3, 7, 7\) here; these weights fit backbone='resnet18', stem='small'$"
    )
    with pytest.raises(ValueError, match=message):
        load_backbone(create_backbone("resnet18"), file)


def test_none_of_it_is_there():
    with pytest.raises(ValueError, match=r"0 of the backbone's 18 tensors.*names begin with a\.b$"):
        load_backbone(BasicCNN(), weights({"a.b.c": torch.zeros(2, 2)}))


def test_a_wrong_prefix_names_the_right_one():
    file = weights(prefixed("module.backbone.", BasicCNN()))
    with pytest.raises(
        ValueError, match=r"0 of .* under 'module\.'.* fit under 'module\.backbone\.'"
    ):
        load_backbone(BasicCNN(), file, "module")
    with pytest.raises(ValueError, match=r"no network .* under weights_prefix='module'"):
        choose_architecture(file, prefix="module")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value):
    network = BasicCNN()
    network.features[3].weight.data[0, 0] = value
    before = BasicCNN().state_dict()
    ours = BasicCNN()
    ours.load_state_dict(before)
    with pytest.raises(ValueError, match=r"'there.pth' has .* not finite: features\.3\.weight;"):
        load_backbone(ours, weights(network.state_dict()))
    torch.testing.assert_close(ours.state_dict(), before, rtol=0, atol=0)


def test_what_is_not_the_backbones_may_be_nan():
    state = prefixed("backbone.", BasicCNN()) | {"head.weight": torch.full((2, 2), torch.nan)}
    assert load_backbone(BasicCNN(), weights(state)).unused == {"head": 1}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.to("meta"), "on the meta device, without its numbers"),
        (lambda w: w.to_sparse(), "in the layout torch.sparse_coo"),
        (lambda w: w.to(torch.float8_e4m3fn), "as torch.float8_e4m3fn"),
        (lambda w: w.int(), "as torch.int32"),
        (lambda w: w.cfloat(), "as torch.complex64"),
        (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "as torch.qint8"),
    ],
    ids=["meta", "sparse", "float8", "integer", "complex", "quantised"],
)
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_tensors_that_are_no_weights(change, words):
    state = BasicCNN().state_dict()
    state["features.3.weight"] = change(state["features.3.weight"])
    with pytest.raises(ValueError, match=f"has features.3.weight {words}, which is not the kind"):
        load_backbone(BasicCNN(), weights(state))
