import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits

from sslortho.data import ImageArray, ImageFiles, datasets, load_split


def pixels(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(path: Path, seed: int = 0, height: int = 8, width: int = 8) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, height, width)).save(path)
    return str(path)


# digits


@pytest.mark.parametrize(("split", "size"), [("train", 1437), ("test", 360)])
def test_digits_sizes_and_types(split, size):
    data = load_split("digits", None, split)
    assert isinstance(data, ImageArray)
    assert len(data) == size
    assert data.images.shape == (size, 3, 32, 32)
    assert data.images.dtype == torch.uint8
    assert data.labels.dtype == torch.int64
    assert data.classes == tuple("0123456789")


@pytest.mark.parametrize("split", ["train", "test"])
def test_digits_are_scikit_learns_enlarged_four_times(split):
    data = load_split("digits", None, split)
    source = load_digits()
    test = np.arange(1797) % 5 == 0
    chosen = test if split == "test" else ~test
    np.testing.assert_array_equal(data.labels.numpy(), source.target[chosen])
    assert torch.equal(data.images[:, 0], data.images[:, 1])
    assert torch.equal(data.images[:, 0], data.images[:, 2])
    shrunk = data.images[:, 0].double().view(-1, 8, 4, 8, 4).mean(dim=(2, 4)).numpy()
    originals = source.images[chosen] * 255 / 16
    for ours, original in zip(shrunk, originals, strict=True):
        assert np.corrcoef(ours.ravel(), original.ravel())[0, 1] > 0.97
        assert abs(ours.mean() - original.mean()) < 6
    assert data.images.max() == 255
    assert data.images.min() == 0


def test_the_digits_are_the_same_where_scikit_learns_file_is_not_found(monkeypatch):
    expected = load_split("digits", None, "train")
    monkeypatch.setattr(datasets.importlib.util, "find_spec", lambda name: None)
    found = load_split("digits", None, "train")
    assert torch.equal(found.images, expected.images)
    assert torch.equal(found.labels, expected.labels)
    assert found.table.digest == expected.table.digest


@pytest.mark.slow
def test_loading_the_digits_does_not_import_scikit_learn():
    program = (
        "import sys\nfrom sslortho.data import load_split\nload_split('digits', None, 'train')\n"
        "print({'sklearn', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_the_digits_splits_are_disjoint_and_have_every_class():
    train, test = (load_split("digits", None, split) for split in ("train", "test"))
    # the 1,797 scans are all different, so an image in both splits would be the same sample
    images = torch.cat([train.images, test.images])[:, 0].flatten(1)
    assert len(images.unique(dim=0)) == 1797
    assert set(train.labels.tolist()) == set(test.labels.tolist()) == set(range(10))


# names


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "folder", "imagenet"])
def test_data_dir_is_needed(name):
    with pytest.raises(ValueError, match=rf"data='{name}' needs data_dir"):
        load_split(name, None, "train")


@pytest.mark.parametrize(
    ("name", "hint"), [("digit", "digits"), ("cifar_10", "cifar10"), ("Folder", "folder")]
)
def test_an_unknown_data_set_names_the_nearest(name, hint):
    with pytest.raises(ValueError, match=rf"data='{name}' .*did you mean {hint}\?"):
        load_split(name, None, "train")


def test_an_unknown_data_set_near_to_nothing_lists_them_all():
    with pytest.raises(ValueError, match=r"digits, cifar10, cifar100, folder, beton, imagenet$"):
        load_split("xyzzy", None, "train")


# ImageNet


def write_imagenet(root: Path) -> None:
    for split, count in (("train", 3), ("val", 1)):
        for label, wnid in enumerate(("n01440764", "n01443537")):
            for i in range(count):
                write(root / split / wnid / f"{i}.JPEG", 10 * label + i, 100 + i, 120)
    write(root / "test" / "ILSVRC2012_test_00000001.JPEG")  # unlabelled, as ImageNet's are


@pytest.mark.parametrize(("split", "folder", "count"), [("train", "train", 3), ("test", "val", 1)])
def test_imagenet_is_read_from_train_and_val(tmp_path, split, folder, count):
    write_imagenet(tmp_path)
    data = load_split("imagenet", tmp_path, split)
    assert isinstance(data, ImageFiles)
    assert data.classes == ("n01440764", "n01443537")
    assert data.labels.tolist() == [0] * count + [1] * count
    assert [Path(path).parent.parent for path in data.paths] == [tmp_path / folder] * 2 * count
    assert all(
        Path(path).parent.name == data.classes[k]
        for path, k in zip(data.paths, data.labels, strict=True)
    )


def test_imagenet_without_val_has_no_test_split(tmp_path):
    write_imagenet(tmp_path)
    shutil.rmtree(tmp_path / "val")
    with pytest.warns(UserWarning, match="holds test, which is not used: .* without val/"):
        assert load_split("imagenet", tmp_path, "test") is None


def test_imagenet_prefers_betons(tmp_path, monkeypatch):
    write_imagenet(tmp_path)
    calls = []
    monkeypatch.setattr(datasets, "load_beton", lambda *args: calls.append(args))
    (tmp_path / "val.beton").touch()
    assert len(load_split("imagenet", tmp_path, "train")) == 6
    (tmp_path / "train.beton").touch()
    for split in ("train", "test"):
        load_split("imagenet", tmp_path, split)
    assert calls == [(tmp_path, "train"), (tmp_path, "test")]


def test_imagenet_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="no folder train/"):
        load_split("imagenet", tmp_path, "train")


# CIFAR


def stub_cifar(monkeypatch, name: str, base_folder: str, error: Exception | None = None) -> list:
    calls = []

    class Stub:
        def __init__(self, root: str, train: bool, download: bool) -> None:
            calls.append((root, train, download))
            if error is not None:
                raise error
            rng = np.random.default_rng(train)
            self.data = rng.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
            self.targets = [3, 0, 4, 1, int(train)]
            self.classes = ["airplane", "bird", "cat", "deer", "dog"]

    Stub.base_folder = base_folder
    monkeypatch.setattr(torchvision.datasets, name, Stub)
    return calls


CIFARS = [
    ("cifar10", "CIFAR10", "cifar-10-batches-py"),
    ("cifar100", "CIFAR100", "cifar-100-python"),
]


@pytest.mark.parametrize(("name", "cls", "base_folder"), CIFARS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar_is_torchvisions_with_channels_first(
    monkeypatch, tmp_path, name, cls, base_folder, split
):
    calls = stub_cifar(monkeypatch, cls, base_folder)
    data = load_split(name, tmp_path, split)
    assert [call[:2] for call in calls] == [(str(tmp_path), split == "train")]
    rng = np.random.default_rng(split == "train")
    expected = rng.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    assert isinstance(data, ImageArray)
    assert data.images.is_contiguous()
    np.testing.assert_array_equal(data.images.numpy(), np.moveaxis(expected, 3, 1))
    assert data.labels.tolist() == [3, 0, 4, 1, int(split == "train")]
    assert data.labels.dtype == torch.int64
    assert data.classes == ("airplane", "bird", "cat", "deer", "dog")


@pytest.mark.parametrize(("name", "cls", "base_folder"), CIFARS)
@pytest.mark.parametrize("error", [RuntimeError("no route to host"), OSError("disk full")])
def test_cifar_that_cannot_be_downloaded_says_where_to_put_it(
    monkeypatch, tmp_path, name, cls, base_folder, error
):
    stub_cifar(monkeypatch, cls, base_folder, error)
    with pytest.raises(ValueError, match=f"data='{name}'.*{error}.*{base_folder}") as caught:
        load_split(name, tmp_path, "train")
    assert str(tmp_path) in str(caught.value)
    assert caught.value.__cause__ is error
