"""The command as its users start it."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
import torch
import yaml
from torch import nn

from sslortho.models import (
    BackboneInfo,
    create_backbone,
    read_weights,
    restore_backbone,
    write_backbone,
)
from sslortho.models.cifar_resnet import BasicCNN
from sslortho.recipes.export.options import ExportOptions

ROOT = Path(__file__).parent.parent.parent
SCRIPT = str(ROOT / "scripts" / "export.py")
INFO = BackboneInfo(
    backbone="basic_cnn", stem="stock", crop_size=32, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)
)


@pytest.fixture
def export(monkeypatch, capsys):
    """Runs the command, and returns what it prints; or the error."""

    def run(*arguments, code=0) -> str:
        monkeypatch.setattr(sys, "argv", ["scripts/export.py", *map(str, arguments)])
        if not code:
            runpy.run_path(SCRIPT, run_name="__main__")
            said = capsys.readouterr()
            assert not said.err
            return said.out
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(SCRIPT, run_name="__main__")
        assert caught.value.code == code
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1
        return said

    return run


@pytest.fixture
def run_folder(tmp_path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    write_backbone(BasicCNN(), folder / "backbone.safetensors", INFO)
    return folder


def same_features(one: nn.Module, other: nn.Module) -> None:
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(one.eval()(images), other.eval()(images))


def original(folder: Path) -> nn.Module:
    network = BasicCNN()
    network.load_state_dict(read_weights(folder).state)
    return network


def test_a_run_and_the_lines_that_load_it(export, run_folder, tmp_path):
    out = tmp_path / "new" / "x.safetensors"
    said = export("--backbone_from", run_folder, "--format", "hub", "--out", out)
    first, second, third, *lines = said.splitlines()
    assert first == "backbone.safetensors: 21 tensors of the backbone"
    assert second == "backbone basic_cnn; to load it:"
    assert third == ("# 32 pixels; values from 0 to 1, minus (0.1, 0.2, 0.3), over (0.4, 0.5, 0.6)")
    assert len(lines) == 2
    defined: dict = {}
    exec("\n".join(lines), defined)
    same_features(defined["model"], original(run_folder))
    assert read_weights(out).info == INFO


@pytest.mark.slow
def test_onnx_at_the_size_of_pretraining(export, run_folder, tmp_path):
    lines = export("--backbone_from", run_folder, "--format", "onnx", "--out", tmp_path / "x.onnx")
    images = torch.randn(3, 3, 32, 32)
    [features] = onnxruntime.InferenceSession(tmp_path / "x.onnx").run(
        None, {"images": images.numpy()}
    )
    with torch.no_grad():
        torch.testing.assert_close(
            torch.from_numpy(features), original(run_folder).eval()(images), rtol=1e-4, atol=1e-4
        )
    assert "onnxruntime" in lines


@pytest.mark.slow
def test_anothers_checkpoint_with_options(export, tmp_path):
    network = create_backbone("resnet18", "small")
    state = {"backbone." + key: value for key, value in network.state_dict().items()}
    state |= {"momentum_" + key: value + 1 for key, value in state.items()}
    state["projector.0.weight"] = torch.zeros(2, 2)
    torch.save({"state_dict": state}, tmp_path / "x.ckpt")
    out = tmp_path / "x.pth"
    said = export("--backbone_from", tmp_path / "x.ckpt", "--format", "hub", "--out", out,
                  "--stem", "solo_learn", "--weights_prefix", "backbone")  # fmt: skip
    lines = said.splitlines()
    assert lines[0] == (
        "x.ckpt (state_dict): 120 tensors of the backbone under 'backbone.'; "
        "not used: momentum_backbone (120), projector (1)"
    )
    assert lines[1] == "backbone resnet18, stem solo_learn; to load it:"
    assert lines[-1].endswith("backbone='resnet18', stem='solo_learn')")
    written = torch.load(out, weights_only=True)
    torch.testing.assert_close(written, dict(network.state_dict()), rtol=0, atol=0)


def test_an_existing_file_is_only_replaced_when_asked_to(export, run_folder, tmp_path):
    out = tmp_path / "x.pth"
    out.write_bytes(b"precious")
    arguments = ("--backbone_from", run_folder, "--format", "hub", "--out", out)
    assert export(*arguments, code=2) == (
        f"export.py: error: out='{out}' exists already; give another one, or --overwrite\n"
    )
    assert out.read_bytes() == b"precious"
    export(*arguments, "--overwrite")
    assert set(torch.load(out, weights_only=True)) == set(BasicCNN().state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--backbone_from RUN --format timm --out x.pth",
            "format='timm' has no backbone='basic_cnn'",
        ),
        (
            "--backbone_from nowhere --format hub --out x.pth",
            "backbone_from='nowhere' does not exist",
        ),
        ("--backbone_from RUN --format hub --out x.pth --backbone resnet18", "does not fit"),
        ("--backbone_from RUN --format hub --out x.pth --backbone resnet-18", "did you mean"),
        ("--backbone_from RUN --format hub --out x.pth --stem small", "stem='small' has no effect"),
        ("--backbone_from RUN --format hub --out x.pth --weights_prefix x", "under 'x.'"),
        ("--backbone_from RUN --format onxx --out x.onnx", "onxx"),
        ("--backbone_from RUN --format hub --output x.pth", "did you mean out?"),
        ("--backbone_from RUN --format hub --out file/x.pth", "exists|Not a directory"),
    ],
)
def test_mistakes_are_one_line(export, run_folder, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    said = export(*arguments.replace("RUN", str(run_folder)).split(), code=2)
    assert said.startswith("export.py: error: ")
    assert any(part in said for part in message.split("|"))
    assert not list(tmp_path.glob("x.*"))


def test_debug_shows_the_traceback(monkeypatch):
    arguments = ["--backbone_from", "nowhere", "--format", "hub", "--out", "x.pth", "--debug"]
    monkeypatch.setattr(sys, "argv", [SCRIPT, *arguments])
    with pytest.raises(ValueError, match="'nowhere' does not exist"):
        runpy.run_path(SCRIPT, run_name="__main__")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_size": 32}, "crop_size=32 has no effect on format='hub'"),
        ({"format": "onnx", "out": "x.onnx", "crop_size": 0}, "crop_size=0 must be 1 or more"),
    ],
)
def test_options_out_of_range_or_without_effect(options, message):
    with pytest.raises(ValueError, match=message):
        ExportOptions(**{"backbone_from": "x", "format": "hub", "out": "x.pth", **options})


@pytest.mark.slow
def test_a_folder_for_the_hub_loads_in_timm_and_says_how_it_came_about(tmp_path, export):
    timm = pytest.importorskip("timm")
    network = create_backbone("resnet18", "stock")
    info = replace(INFO, backbone="resnet18", crop_size=64)
    run = tmp_path / "run"
    run.mkdir()
    write_backbone(network, run / "backbone.safetensors", info)
    summary = {
        "knn_top1": 51.48,
        "untrained_knn_top1": 31.06,
        "config": {"method": "barlow_twins", "data": "path", "data_dir": "/x/a|b", "lr": 6.0},
        "verdict": {"name": "healthy"},
        "command": "sslortho pretrain",
        "git_commit": "0123abc",
    }
    (run / "summary.json").write_text(json.dumps(summary))
    out = tmp_path / "hub" / "folder"
    said = export("--backbone_from", run, "--format", "huggingface", "--out", out)
    assert sorted(path.name for path in out.parent.rglob("*") if path.is_file()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip
    lines = {}
    exec("\n".join(said.splitlines()[-2:]), lines)
    same_features(lines["model"], network)
    config = timm.data.resolve_model_data_config(lines["model"])
    assert tuple(config["input_size"]) == (3, 64, 64)
    assert (tuple(config["mean"]), tuple(config["std"])) == (info.mean, info.std)
    card = (out / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "timm"
    for text in ("barlow_twins", "51.48", "31.06", "healthy", "0123abc", "a\\|b", "per 256"):
        assert text in body
    assert "exists already" in export(
        "--backbone_from", run, "--format", "huggingface", "--out", out, code=2
    )
    weights = run / "backbone.safetensors"
    export("--backbone_from", weights, "--format", "huggingface", "--out", out, "--overwrite")
    assert (out / "README.md").read_text() == card
    foreign = run / "foreign.safetensors"
    write_backbone(network, foreign, info)
    export("--backbone_from", foreign, "--format", "huggingface", "--out", out, "--overwrite")
    assert "51.48" not in (out / "README.md").read_text()
    said = export(
        "--backbone_from", run, "--format", "huggingface", "--out", run, "--overwrite", code=2
    )
    assert "holds 'backbone.safetensors', which is not of format='huggingface'" in said
    assert weights.exists()


@pytest.mark.parametrize("side", [32, 64, 96, 224])
def test_the_hub_s_crop_is_that_of_evaluations_of_images_of_that_side(side, tmp_path):
    """A set of images of 96 pixels (STL-10) is looked at whole, one of photographs is not."""
    from sslortho.augment.views import IMAGENET_MEAN, IMAGENET_STD, ViewSpec, evaluation_spec
    from sslortho.data.image_sets import SMALL_SIDE
    from sslortho.models.huggingface import IMAGENET, create_config

    view = evaluation_spec(ViewSpec(crop_size=side), side <= SMALL_SIDE)
    write_backbone(BasicCNN(), tmp_path / "x.safetensors", replace(INFO, crop_size=side))
    restored = restore_backbone(read_weights(tmp_path / "x.safetensors"))
    chosen = create_config(restored)["pretrained_cfg"]
    assert round(side / chosen["crop_pct"]) == view.resize
    assert IMAGENET == (IMAGENET_MEAN, IMAGENET_STD)


def test_a_small_stem_is_refused_for_the_hub(tmp_path, export):
    weights = tmp_path / "x.safetensors"
    info = replace(INFO, backbone="resnet18", stem="small")
    write_backbone(create_backbone("resnet18", "small"), weights, info)
    said = export(
        "--backbone_from", weights, "--format", "huggingface", "--out", tmp_path / "hub", code=2
    )
    assert "timm builds no resnet18 with the stem 'small'" in said
    assert not (tmp_path / "hub").exists()
