"""Files of weights, ours and others', whole and broken."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers.networks import check, features, prefixed, resnet10, saved, trained
from torch import nn

from sslortho.models import BackboneInfo, Projector, read_weights, write_backbone
from sslortho.models.cifar_resnet import BasicCNN, CifarResNet

INFO = BackboneInfo(
    backbone="resnet18", stem="small", crop_size=32, mean=(0.1, 0.2, 1 / 3), std=(0.4, 0.5, 0.6)
)


# Ours


def test_our_file_round_trips(tmp_path):
    network = trained(resnet10()).to(memory_format=torch.channels_last)
    write_backbone(network, tmp_path / "backbone.safetensors", INFO)
    file = read_weights(tmp_path)  # the run folder
    assert file.info == INFO
    assert file.path == tmp_path / "backbone.safetensors"
    network.to(memory_format=torch.contiguous_format)
    report = check(resnet10(), tmp_path, network)
    assert str(report) == "backbone.safetensors: 72 tensors of the backbone"
    plain = safetensors.torch.load_file(file.path)
    torch.testing.assert_close(plain, dict(network.state_dict()), rtol=0, atol=0)
    with safetensors.safe_open(file.path, "pt") as content:
        assert content.metadata()["format"] == "pt"


def test_a_file_without_information(tmp_path):
    write_backbone(BasicCNN(), tmp_path / "x.safetensors")
    assert read_weights(str(tmp_path / "x.safetensors")).info is None


def test_writing_replaces_and_leaves_nothing_else(tmp_path):
    for seed in (0, 1):
        write_backbone(trained(BasicCNN(), seed), tmp_path / "x.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
    check(BasicCNN(), tmp_path / "x.safetensors", trained(BasicCNN(), 1))


def test_tied_tensors_can_be_written(tmp_path):
    network = BasicCNN()
    network.features[3].weight = network.features[6].weight
    write_backbone(network, tmp_path / "x.safetensors")
    state = read_weights(tmp_path / "x.safetensors").state
    torch.testing.assert_close(state["features.3.weight"], state["features.6.weight"])


@pytest.mark.parametrize("damage", [{"crop_size": "x"}, {"mean": "[1, 2]"}, {"std": "0.1"}])
def test_information_that_cannot_be_read(tmp_path, damage):
    metadata = {**INFO.to_metadata(), **damage}
    content = safetensors.torch.save({"a": torch.zeros(2, 2)}, metadata)
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be read as weights \(ValueError: its metadata"):
        read_weights(tmp_path / "x.safetensors")


def test_our_checkpoints(tmp_path):
    task = nn.Module()
    task.backbone, task.projector = trained(CifarResNet(20)), Projector(64, (8, 8))
    optimizer = torch.optim.SGD(task.parameters(), lr=0.1, momentum=0.9)
    features(task.backbone.requires_grad_(False))
    content = {"format": 1, "progress": {"step": 3, "rng": torch.get_rng_state()},
               "task": task.state_dict(), "optimizer": optimizer.state_dict(),
               "scaler": None, "config": {"lr": 0.1}}  # fmt: skip
    report = check(CifarResNet(20), saved(tmp_path / "step-1.pt", content), task.backbone)
    assert report.prefix == "backbone."
    assert report.unused == {"projector": 7}


# Containers


@pytest.mark.parametrize(
    "prefix", ["", "module.", "backbone.", "encoder.", "_orig_mod.", "a.b.c.", "module.encoder_q."]
)
@pytest.mark.parametrize("container", [None, "state_dict", "model", "model_state_dict", "x"])
def test_any_prefix_in_any_container(tmp_path, prefix, container):
    network = trained(BasicCNN())
    state = prefixed(prefix, network)
    content = state if container is None else {"epoch": 3, container: state}
    assert check(BasicCNN(), saved(tmp_path / "x.pt", content), network).prefix == prefix


def test_containers_within_containers(tmp_path):
    network = trained(BasicCNN())
    trunk = {"trunk": prefixed("_feature_blocks.", network), "heads": {}}
    content = {"classy_state_dict": {"base_model": {"model": trunk}}}
    report = check(BasicCNN(), saved(tmp_path / "x.torch", content), network)
    assert report.file == "x.torch (classy_state_dict.base_model.model.trunk)"


def test_batch_counters_may_be_missing(tmp_path):
    network = trained(BasicCNN())
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("batches_tracked")}
    assert check(BasicCNN(), saved(tmp_path / "x.pth", state), network).matched == 18


def test_half_precision_is_widened(tmp_path):
    network = trained(BasicCNN()).half()
    path = saved(tmp_path / "x.pth", network.state_dict())
    check(BasicCNN(), path, network.float())


# No weights


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def half(path: Path) -> None:
    saved(path, BasicCNN().state_dict())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def half_a_safetensors(path: Path) -> None:
    write_backbone(BasicCNN(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def modern_pickle(path: Path) -> None:
    torch.save({"w": torch.zeros(2, 2)}, path, pickle_protocol=4)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("x.pth", lambda path: None, "does not exist; give a run folder, or a file of weights"),
        ("x.pth", Path.touch, "is empty"),
        ("x.pth", pointer, "git lfs pull"),
        ("x.safetensors", pointer, "git lfs pull"),
        (
            "x.ckpt",
            lambda path: path.write_text("<html>\n\t404\r\n</html>"),
            r"text \('<html>.*page",
        ),
        ("x.pth", lambda path: path.write_bytes(bytes(range(256))), "cannot be read as weights"),
        ("x.pt", half, r"cannot be read as weights \(.*it may be damaged or incomplete"),
        ("x.safetensors", half_a_safetensors, "cannot be read as weights"),
        ("x.pth", modern_pickle, "cannot be read as weights"),
        ("x.safetensors", lambda path: saved(path, {}), "cannot be read as weights"),
        ("x.pth", lambda path: saved(path, {}), "holds no weights by name"),
        ("x.pth", lambda path: saved(path, {"epoch": 3}), r"no weights by name \(but epoch\)"),
        (
            "x.pth",
            lambda path: saved(path, [torch.zeros(2, 2)]),
            r"no weights by name \(but list\)",
        ),
        ("x.pth", lambda path: saved(path, BasicCNN()), r"whole pickled model.*\.state_dict\(\)"),
        ("x.safetensors", lambda path: safetensors.torch.save_file({}, path), "holds no tensors"),
        ("run", Path.mkdir, r"is a folder without backbone\.safetensors; give a run folder"),
    ],
)
def test_no_file_of_weights(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=message) as caught:
        read_weights(tmp_path / name)
    assert str(caught.value).startswith(f"backbone_from='{tmp_path / name}' ")
    assert "weights_only" not in str(caught.value)


def test_a_run_that_is_not_finished(tmp_path):
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ValueError, match=r"not finished.*; resume it by its own command$"):
        read_weights(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for step in (9, 10):
        (tmp_path / "checkpoints" / f"step-{step:08d}.pt").touch()
    with pytest.raises(ValueError, match=r"give its checkpoint: .*step-00000010\.pt$"):
        read_weights(tmp_path)
