"""Formats of weight files: shards, other frameworks, arrays of numpy, misleading names."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.networks import check, saved, trained

from sslortho.models import read_weights
from sslortho.models.cifar_resnet import BasicCNN


def write_shards(folder, state, files=2):
    """Write a state dict as Hugging Face does: shards, and an index with a map to them."""
    names = [f"model-{i + 1:05d}-of-{files:05d}.safetensors" for i in range(files)]
    placed = {key: names[i % files] for i, key in enumerate(state)}
    for name in names:
        part = {key: value for key, value in state.items() if placed[key] == name}
        safetensors.torch.save_file(part, folder / name, {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": placed}))
    return index


def test_shards_are_read_by_their_index(tmp_path):
    network = trained(BasicCNN())
    check(BasicCNN(), write_shards(tmp_path, network.state_dict()), network)


def test_a_shard_alone_is_not_the_network(tmp_path):
    write_shards(tmp_path, BasicCNN().state_dict())
    with pytest.raises(
        ValueError, match=r"does not fit the backbone: \d+ of the backbone's 18 .*missing"
    ):
        check(BasicCNN(), tmp_path / "model-00001-of-00002.safetensors", BasicCNN())


def test_shards_that_are_absent_are_named(tmp_path):
    index = write_shards(tmp_path, BasicCNN().state_dict())
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    message = (
        "names model-00002-of-00002.safetensors, which is not beside it; fetch all of its 2 files"
    )
    with pytest.raises(ValueError, match=message):
        read_weights(index)


def test_shards_of_another_model_are_refused(tmp_path):
    state = BasicCNN().state_dict()
    index = write_shards(tmp_path, state)
    del state["features.0.weight"]
    part = {key: value for key, value in state.items() if "features.0" in key}
    safetensors.torch.save_file(part, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(ValueError, match=r"names 'features\.0\.weight', which its files lack"):
        read_weights(index)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", 3, ["a"], {}])
def test_an_index_does_not_lead_elsewhere(tmp_path, name):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ValueError, match=r"names no files beside it|cannot be read as weights"):
        read_weights(index)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}'])
def test_an_index_that_is_none(tmp_path, text):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(ValueError, match=r"names no files beside it|cannot be read as weights"):
        read_weights(index)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "x.pt", "x"])
def test_safetensors_under_another_name(tmp_path, name):
    network = trained(BasicCNN())
    (tmp_path / name).write_bytes(safetensors.torch.save(network.state_dict(), {"format": "pt"}))
    check(BasicCNN(), tmp_path / name, network)


def test_foreign_metadata_is_no_information(tmp_path):
    network = trained(BasicCNN())
    metadata = {"format": "pt", "backbone": "resnet50", "stem": "small"}
    safetensors.torch.save_file(network.state_dict(), tmp_path / "x.safetensors", metadata)
    assert read_weights(tmp_path / "x.safetensors").info is None
    check(BasicCNN(), tmp_path / "x.safetensors", network)


def test_arrays_of_numpy_are_refused_with_the_remedy(tmp_path):
    arrays = {name: value.numpy() for name, value in BasicCNN().state_dict().items()}
    with pytest.raises(ValueError, match=r"holds no weights by name .*torch\.from_numpy\(array\)"):
        read_weights(saved(tmp_path / "x.pth", {"model": arrays}))


def test_arrays_of_numpy_among_tensors_are_missing(tmp_path):
    state = dict(BasicCNN().state_dict())
    state["features.3.weight"] = np.zeros((32, 32, 3, 3), "float32")
    with pytest.raises(ValueError, match=r"17 of .*missing: features\.3\.weight"):
        check(BasicCNN(), saved(tmp_path / "x.pth", state), BasicCNN())


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".h5", ".onnx"])
def test_files_of_other_frameworks_are_refused(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(
        ValueError, match=rf"is a file of another framework \({suffix}\); convert it"
    ):
        read_weights(path)


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning"
)
def test_a_scripted_model_is_refused_in_one_line(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "x.pt")
    with pytest.raises(
        ValueError, match=r"cannot be read as weights .*write torch\.save"
    ) as caught:
        read_weights(tmp_path / "x.pt")
    assert "\n" not in str(caught.value)
