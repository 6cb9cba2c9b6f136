"""Duplicates by pixels and by features, beside scipy's components of the graph of all pairs."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from sslortho.data import ImageArray, prefetch
from sslortho.data.image_folder import scan_folder
from sslortho.evaluate import duplicates
from sslortho.evaluate.duplicates import (
    Groups,
    choose_threshold,
    hash_pixels,
    join_equal,
    join_similar,
    mild_changes,
)


def scipys_groups(features, threshold):
    rows = features.double() / features.double().norm(dim=1, keepdim=True)
    near = (rows @ rows.T >= threshold).numpy()
    _, labels = connected_components(csr_matrix(near), directed=False)
    groups = [np.flatnonzero(labels == label).tolist() for label in np.unique(labels)]
    return sorted(group for group in groups if len(group) > 1)


@pytest.mark.filterwarnings("ignore:.*hardly tell images apart")
@pytest.mark.parametrize("block", [50, 300, 2**22])
@pytest.mark.parametrize("threshold", [-0.5, 0.0, 0.6, 0.9, 0.999])
def test_groups_are_the_components_of_the_pairs(monkeypatch, block, threshold):
    monkeypatch.setattr(duplicates, "BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 5, generator=generator)
    features[40:] = features[:20] + 0.3 * torch.randn(20, 5, generator=generator)
    groups = Groups(60)
    join_similar(groups, features, threshold)
    assert sorted(groups.list()) == scipys_groups(features, threshold)


@pytest.mark.parametrize("seed", range(6))
def test_any_pairs_are_joined_as_scipy_joins_them(seed):
    """Chains, stars around the first and the last number, and pairs by chance, in several parts."""
    generator = np.random.default_rng(seed)
    chain = np.stack([np.arange(40), np.arange(1, 41)], axis=1)
    stars = np.stack([np.arange(50, 70), np.full(20, [50, 99][seed % 2])], axis=1)
    pairs = np.concatenate([chain, stars, generator.integers(0, 100, (seed * 10, 2))])
    pairs = generator.permuted(generator.permutation(pairs), axis=1)
    groups = Groups(100)
    for part in np.array_split(pairs, 1 + seed):
        groups.join(part)
    graph = csr_matrix((np.ones(len(pairs)), pairs.T), shape=(100, 100))
    _, labels = connected_components(graph, directed=False)
    sets = [np.flatnonzero(labels == label).tolist() for label in range(labels.max() + 1)]
    assert groups.list() == sorted(members for members in sets if len(members) > 1)
    smallest = [min(next(members for members in sets if i in members)) for i in range(100)]
    assert [groups.find(i) for i in range(100)] == smallest


def test_features_that_tell_nothing_apart_are_told_early(monkeypatch):
    monkeypatch.setattr(duplicates, "BLOCK", 25)
    same, groups = torch.ones(60, 3), Groups(60)
    # 5 rows a block: 59 + ... + 55, then 54 + ... + 50, then 49 + ... + 45 pairs: 780 are more than 600
    with pytest.warns(UserWarning, match=r"780 pairs among 15 of 60 images") as warned:
        join_similar(groups, same, 0.9)
    assert len(warned) == 1
    assert groups.list() == [list(range(60))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        join_similar(Groups(60), torch.eye(60).repeat_interleave(10, dim=0)[:60], 0.9)


def test_half_precision_and_lengths_do_not_matter():
    features = torch.randn(30, 8, generator=torch.Generator().manual_seed(1))
    features[20:] = 7 * features[:10]
    groups = Groups(30)
    join_similar(groups, features.half(), 0.999)
    assert groups.list() == [[i, 20 + i] for i in range(10)]


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="must be finite"):
        join_similar(Groups(2), torch.tensor([[1.0, float("nan")], [1.0, 0.0]]), 0.9)


def test_joined_in_any_order():
    groups = Groups(6)
    groups.join([(5, 4), (0, 3), (3, 5)])
    assert groups.list() == [[0, 3, 4, 5]]
    join_equal(groups, [b"a", b"b", b"b", b"c", b"d", b"e"])
    assert groups.list() == [[0, 3, 4, 5], [1, 2]]


def test_the_same_pixels_in_another_file_have_the_same_hash(tmp_path):
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (120, 100, 3), dtype=np.uint8)
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    Image.fromarray(pixels).save(folder / "1.png")
    Image.fromarray(pixels).save(folder / "2.bmp")
    Image.fromarray(pixels.transpose(1, 0, 2).copy()).save(folder / "3.png")
    changed = pixels.copy()
    changed[5, 5, 0] ^= 1
    Image.fromarray(changed).save(folder / "4.png")
    one, two, three, four = hash_pixels(scan_folder(tmp_path, "train"))
    assert one == two
    assert len({one, three, four}) == 3


def test_images_of_the_same_bytes_and_another_shape_differ():
    flat = torch.arange(12, dtype=torch.uint8)
    wide = ImageArray(flat.view(1, 3, 2, 2).clone(), torch.tensor([-1]), ())
    tall = ImageArray(flat.view(1, 3, 4, 1).clone(), torch.tensor([-1]), ())
    assert hash_pixels(wide) != hash_pixels(tall)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (32, 40), (300, 200)])
def test_copies_are_changed_and_stay_alike(size):
    height, width = size
    coarse = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    for copy in mild_changes(np.array(image)):
        assert copy.dtype == np.uint8
        back = Image.fromarray(copy).resize((width, height), Image.Resampling.BICUBIC)
        difference = np.abs(np.asarray(back, float) - np.asarray(image, float)).mean()
        assert difference < 30
        if min(size) > 8:
            assert difference > 0 or copy.shape != (height, width, 3)


def test_the_threshold_is_the_share_of_copies_above_it():
    originals = torch.tensor([[1.0, 0.0]]).repeat(1000, 1)
    angles = torch.linspace(0, 0.5, 1000)
    copies = torch.stack([angles.cos(), angles.sin()], dim=1)[None]
    threshold = choose_threshold(originals, copies, 0.9)
    assert threshold == pytest.approx(float(torch.tensor(0.45).cos()), abs=1e-3)


def test_hashes_are_in_order_in_whatever_number_they_are_made(monkeypatch):
    images = torch.arange(7, dtype=torch.uint8)[:, None, None, None].expand(7, 3, 2, 2)
    array = ImageArray(images.contiguous(), torch.zeros(7).long(), ())
    at_once = hash_pixels(array)
    monkeypatch.setattr(prefetch, "AT_ONCE", 3)
    assert hash_pixels(array) == at_once
    assert len(set(at_once)) == 7
