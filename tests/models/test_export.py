"""Exported files load in their library and give the same features."""

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import timm
import torch
import torchvision
from helpers.networks import trained
from torch import nn

from sslortho.models import (
    BackboneInfo,
    create_backbone,
    export_backbone,
    read_weights,
    restore_backbone,
    write_backbone,
)
from sslortho.models.backbones import TORCHVISION
from sslortho.models.cifar_resnet import CifarResNet
from sslortho.models.export import check_format, check_packages
from sslortho.models.weights.restore import LoadReport, RestoredBackbone

ROOT = Path(__file__).parent.parent.parent

REPORT = LoadReport(file="x.pth", prefix="", matched=0)


def restored(name: str, stem="stock", info: bool = True) -> RestoredBackbone:
    network = trained(create_backbone(name, stem))
    known = BackboneInfo(
        backbone=name, stem=stem, crop_size=32, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)
    )
    return RestoredBackbone(
        network=network, name=name, stem=stem, info=known if info else None, report=REPORT
    )


def images(count: int = 2, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def same_features(ours: nn.Module, theirs: nn.Module) -> None:
    torch.testing.assert_close(theirs.eval()(images()), ours(images()))


def run(lines: tuple[str, str]) -> dict:
    """Run the two lines, and return the names that they define."""
    defined: dict = {}
    exec("\n".join(lines), defined)
    return defined


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_timm_loads_it_strictly(tmp_path, suffix):
    source, out = restored("resnet18"), tmp_path / f"x{suffix}"
    lines = export_backbone(source, "timm", out)
    same_features(
        source.network, timm.create_model("resnet18", num_classes=0, checkpoint_path=str(out))
    )
    if suffix == ".pth":  # once is enough
        same_features(source.network, run(lines)["model"])


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["small", "solo_learn"])
@pytest.mark.parametrize(("format", "out"), [("timm", "x.safetensors"), ("torchvision", "file")])
def test_other_stems_are_put_into_the_librarys_model(tmp_path, format, out, stem):
    source = restored("resnet18", stem)
    model = run(export_backbone(source, format, tmp_path / out))["model"]
    model.fc = nn.Identity()
    assert not isinstance(model, type(source.network)) or format == "torchvision"
    same_features(source.network, model)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["timm", "torchvision"])
def test_the_small_stem_of_a_densenet_is_put_into_the_librarys_model(tmp_path, format):
    source = restored("densenet121", "small")
    model = run(export_backbone(source, format, tmp_path / "x.safetensors"))["model"]
    model.classifier = nn.Identity()
    same_features(source.network, model)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d", "densenet121"])
def test_timm_computes_what_torchvision_computes(name):
    source = restored(name)
    theirs = timm.create_model(name, num_classes=0)
    theirs.load_state_dict(source.network.state_dict())
    same_features(source.network, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_timm_names_torchvisions_tensors_alike(name):
    with torch.device("meta"):
        ours = create_backbone(name).state_dict()
        theirs = timm.create_model(name, num_classes=0).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto"])
def test_timms_own(tmp_path, name):
    source = restored(f"timm:{name}")
    lines = export_backbone(source, "timm", tmp_path / "x.safetensors")
    assert f"timm.create_model({name!r}, num_classes=0, " in lines[1]
    same_features(source.network, run(lines)["model"])


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_torchvision_lacks_its_classifier_alone(tmp_path, suffix):
    source, out = restored("resnet18"), tmp_path / f"x{suffix}"
    model = run(export_backbone(source, "torchvision", out))["model"]
    assert isinstance(model, torchvision.models.ResNet)
    if suffix == ".pth":
        state = torch.load(out, weights_only=True)
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])
    model.fc = nn.Identity()
    same_features(source.network, model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stem", "info", "suffix"),
    [
        ("resnet20", "stock", True, ".safetensors"),
        ("resnet20_postact", "stock", True, ".safetensors"),
        ("resnet18", "solo_learn", True, ".safetensors"),
        ("resnet18", "solo_learn", False, ".safetensors"),
        ("timm:resnet10t", "stock", True, ".safetensors"),
        ("timm:resnet10t", "stock", True, ".pth"),
    ],
)
def test_hub_loads_every_kind(tmp_path, name, stem, info, suffix):
    source = restored(name, stem, info)
    lines = export_backbone(source, "hub", tmp_path / f"x{suffix}", repository=str(ROOT))
    spelled_out = f"backbone={name!r}, stem={stem!r}" in lines[1]
    assert spelled_out == (suffix == ".pth" or not info)
    model = run(lines)["model"]
    assert not model.training
    with torch.no_grad():
        torch.testing.assert_close(model(images()), source.network(images()))


def test_hub_by_hand(tmp_path):
    source = restored("resnet20")
    torch.save({"state_dict": {"encoder." + key: value
                               for key, value in source.network.state_dict().items()}},
               tmp_path / "x.ckpt")  # fmt: skip
    options = {"source": "local", "weights": str(tmp_path / "x.ckpt")}
    same_features(source.network, torch.hub.load(str(ROOT), "backbone", **options))
    same_features(
        source.network, torch.hub.load(str(ROOT), "backbone", weights_prefix="encoder", **options)
    )
    with pytest.raises(ValueError, match="does not fit the backbone"):
        torch.hub.load(str(ROOT), "backbone", backbone="resnet32", **options)
    untrained = torch.hub.load(str(ROOT), "backbone", source="local", backbone="basic_cnn")
    assert untrained(images()).shape == (2, 512)
    with pytest.raises(ValueError, match=r"give weights, a file, or backbone: basic_cnn, "):
        torch.hub.load(str(ROOT), "backbone", source="local")


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    """A network, its ONNX file for 24 pixels, and the lines that load it."""
    small = trained(CifarResNet(8))  # quicker than resnet20, of the same parts
    out = tmp_path_factory.mktemp("onnx") / "x.onnx"
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        lines = export_backbone(replace(restored("resnet20"), network=small), "onnx", out, 24)
    assert said.getvalue() == ""
    return small, out, lines


@pytest.mark.slow
def test_onnx_computes_the_same_for_any_batch(onnx_file):
    network, out, lines = onnx_file
    session = onnxruntime.InferenceSession(out)
    for count in (1, 3):
        [theirs] = session.run(None, {"images": images(count, 24).numpy()})
        with torch.no_grad():
            ours = network(images(count, 24))
        torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=1e-4, atol=1e-4)
    assert run(lines)["features"].shape == (1, 64)


def test_onnx_says_what_it_is(onnx_file):
    model = onnx.load(onnx_file[1])
    onnx.checker.check_model(model, full_check=True)
    for value, name, shape in ((model.graph.input, "images", ["batch", 3, 24, 24]),
                               (model.graph.output, "features", ["batch", 64])):  # fmt: skip
        assert [v.name for v in value] == [name]
        dims = value[0].type.tensor_type.shape.dim
        assert [d.dim_param or d.dim_value for d in dims] == shape
        assert value[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert said["backbone"] == "resnet20"
    assert json.loads(said["mean"]) == [0.1, 0.2, 0.3]


@pytest.mark.slow
def test_an_impossible_size_is_told(tmp_path):
    with pytest.raises(ValueError, match="crop_size=32 does not fit a VisionTransformer"):
        export_backbone(restored("timm:vit_tiny_patch16_224"), "onnx", tmp_path / "x.onnx", 32)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def half_size(tmp_path_factory):
    """A transformer of timm for images of 224 pixels that was pretrained on 112."""
    info = BackboneInfo(
        backbone="timm:vit_tiny_patch16_224",
        stem="stock",
        crop_size=112,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
    path = tmp_path_factory.mktemp("vit") / "w.safetensors"
    write_backbone(create_backbone(info.backbone, any_size=True, seed=0), path, info)
    return restore_backbone(read_weights(path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "out"), [("timm", "x.pth"), ("huggingface", "x"), ("hub", "x.safetensors")]
)
def test_a_transformer_of_another_size_than_its_own_loads_for_that_size(
    tmp_path, half_size, format, out
):
    lines = export_backbone(half_size, format, tmp_path / out, repository=str(ROOT))
    model = run(lines)["model"].eval()
    with torch.no_grad():
        torch.testing.assert_close(model(images(size=112)), half_size.network(images(size=112)))


def test_only_a_file_with_metadata_says_the_size_of_a_transformer(tmp_path, half_size):
    with pytest.raises(ValueError, match=r"x.pth' must end in .safetensors"):
        export_backbone(half_size, "hub", tmp_path / "x.pth")


@pytest.mark.slow
def test_onnx_of_a_transformer_of_another_size_than_its_own(tmp_path):
    path, info = (
        tmp_path / "w.safetensors",
        BackboneInfo(
            backbone="vit_small_32", stem="stock", crop_size=28, mean=(0.5,) * 3, std=(0.5,) * 3
        ),
    )
    write_backbone(create_backbone("vit_small_32", any_size=True, seed=0), path, info)
    source = restore_backbone(read_weights(path))
    export_backbone(source, "onnx", tmp_path / "x.onnx", 28)
    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"))
    (features,) = session.run(None, {"images": images(3, 28).numpy()})
    with torch.no_grad():
        expected = source.network(images(3, 28))
    torch.testing.assert_close(torch.from_numpy(features), expected, atol=1e-4, rtol=1e-3)


def test_missing_packages_are_named(monkeypatch):
    check_packages("onnx")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"needs onnx and onnxscript: pip install 'sslortho\[onnx\]"
    ):
        check_packages("onnx")
    check_packages("timm")


@pytest.mark.parametrize(
    ("format", "name"),
    [
        ("timm", "resnet20"),
        ("torchvision", "resnet20_postact"),
        ("torchvision", "basic_cnn"),
        ("torchvision", "timm:resnet18"),
    ],
)
def test_what_a_library_does_not_have(format, name):
    message = f"format='{format}' has no backbone='{name}'; format='hub' has all of ours.*resnet18"
    with pytest.raises(ValueError, match=message):
        check_format(format, name)
    for other in ("hub", "onnx"):
        check_format(other, name)


def test_an_export_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="format='timm' has no backbone='resnet20'"):
        export_backbone(restored("resnet20"), "timm", tmp_path / "x.pth")
    assert list(tmp_path.iterdir()) == []
