"""Images behind the figures of a pretraining without labels: all of them, but for a few."""

import contextlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import sslortho
from sslortho.data.image_sets import ImageArray
from sslortho.data.loading import Shard
from sslortho.evaluate.collapse import rankme
from sslortho.methods import Method
from sslortho.recipes.pretrain import evaluations
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.pretrain.resolve import resolve
from sslortho.recipes.pretrain.unlabelled import (
    UnlabelledEvaluation,
    create_unlabelled_evaluation,
    even_batch,
)


@pytest.mark.parametrize(
    ("images", "most", "ranks", "batch"),
    [
        (500, 256, 1, 250),
        (256, 256, 1, 256),
        (100, 256, 1, 100),
        (1024, 64, 1, 64),
        (300, 256, 2, 150),
        (5, 4, 4, 4),
        (3, 256, 2, 2),
        (2, 1, 1, 1),
    ],
)
def test_batches_are_the_fewest_that_hold_all_images(images, most, ranks, batch):
    assert even_batch(images, most, ranks) == batch


@pytest.mark.parametrize("ranks", [1, 2, 8])
@pytest.mark.parametrize("most", [8, 64, 256])
def test_fewer_images_are_left_out_than_there_are_batches_times_ranks(most, ranks):
    for images in range(ranks, 700):
        batch = even_batch(images, most, ranks)
        assert batch <= most
        assert batch % ranks == 0
        assert images % batch < max(1, -(-images // most)) * ranks


def image_array(count):
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    return ImageArray(pixels, torch.full((count,), -1), ())


@pytest.mark.slow
def test_views_of_nearly_all_images_are_compared_and_of_all_held_out_ones_have_a_loss():
    options = PretrainOptions.of(
        data="digits", batch_size=64, method="emp_ssl", backbone="basic_cnn"
    )
    recipe = resolve(options, images=1000)
    accelerator: Any = SimpleNamespace()
    found = create_unlabelled_evaluation(
        recipe, accelerator, Shard(torch.device("cpu")), image_array(129), image_array(100)
    )
    assert found.held_out is not None
    assert [len(batch.labels) for batch in found.pairs] == [43] * 3
    assert {len(batch.views) for batch in found.pairs} == {2}
    batches = list(found.held_out)
    assert [len(batch.labels) for batch in batches] == [50, 50]
    assert len(batches[0].views) == 20


class Overwriting(Method):
    """Returns the memory of its last loss again, as a replayed CUDA graph does."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.backbone = torch.nn.Identity()
        self.loss = torch.zeros(())

    def forward(self, views, labels):
        return {"loss": self.loss.add_(1)}


def test_the_loss_of_held_out_images_is_a_mean_though_each_overwrites_the_last():
    accelerator = SimpleNamespace(
        autocast=contextlib.nullcontext, reduce=lambda value, reduction: value
    )
    evaluation = UnlabelledEvaluation.__new__(UnlabelledEvaluation)
    evaluation.__dict__["accelerator"] = accelerator
    batches = [SimpleNamespace(views=(), labels=None)] * 4
    assert evaluation._loss(Overwriting(), batches) == 2.5


@pytest.mark.slow
def test_rankme_of_many_images_without_labels_is_of_some(tmp_path, monkeypatch):
    """All features of a million images do not fit into memory."""
    monkeypatch.setattr(evaluations, "MOST_RANKED", 24)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (60, 32, 32, 3), np.uint8)
    run = sslortho.pretrain(
        images, "basic_cnn", out=tmp_path / "run", projector="16-16", epochs=1, batch_size=20, seed=3,
        threads=1, trackers="none", announce=False, mixed_precision="no",
    )  # fmt: skip
    chosen = torch.randperm(60, generator=torch.Generator().manual_seed(3))[:24].sort().values
    found = sslortho.extract_features(run.backbone, images[chosen.numpy()], threads=1)
    assert run.summary["rankme"] == pytest.approx(rankme(found.features), rel=1e-3)
