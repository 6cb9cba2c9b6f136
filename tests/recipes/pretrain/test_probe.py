"""Figures without labels on the way."""

import pytest
import torch

from sslortho.evaluate import feature_std, pair_ranking, rankme
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.pretrain.probe import FEWEST, MOST, SHARE, count_images
from sslortho.recipes.pretrain.run import build
from sslortho.train.records import read_metrics

SMALL = {
    "data": "digits", "backbone": "basic_cnn", "projector": "16-16", "subset": 200, "batch_size": 50,
    "threads": 1, "trackers": "none", "warmup_epochs": 0,
}  # fmt: skip


@pytest.mark.parametrize(("epochs", "images"), [(10, 2000), (200, 50_000), (100, 1_281_167)])
def test_all_evaluations_together_are_a_small_share_of_the_training(epochs, images):
    every = max(1, epochs // 10)
    options = PretrainOptions.of(batch_size=100, epochs=epochs, evaluate_every=every)
    steps = epochs * (images // 100)
    count = count_images(options, images, steps, views=2)
    assert FEWEST <= count <= MOST
    passes = (epochs // every + 1) * 2 * count
    assert passes <= SHARE * steps * 100 * 2 * 3 or count == FEWEST


def test_a_few_images_are_all_looked_at():
    options = PretrainOptions.of(batch_size=10, epochs=3, evaluate_every=1)
    assert count_images(options, 20, 6, views=2) == 20


@pytest.mark.parametrize(
    ("images", "counted"), [(63, 63), (64, 64), (100, 64), (150, 128), (300, 256), (2000, 256)]
)
def test_the_images_that_are_counted_are_those_in_full_batches(images, counted):
    options = PretrainOptions.of(batch_size=10, epochs=100, evaluate_every=100)
    assert count_images(options, images, 100_000, views=2) == counted


def _pass(probe, task):
    """Features of both views and projections, in the mode that the task is in."""
    batches = [batch.views for batch in probe.pairs]
    with torch.no_grad():
        features = [[task.backbone(view) for view in views] for views in batches]
        projections = torch.cat([task.projector(first) for first, _ in features])
    return torch.cat([f for f, _ in features]), torch.cat([s for _, s in features]), projections


@pytest.mark.slow
def test_its_figures_are_those_of_the_backbone_and_the_projector(tmp_path):
    run = build(PretrainOptions.of(**SMALL, epochs=1, out=str(tmp_path)))
    task = run.training.task
    with torch.no_grad():
        for views in (batch.views for batch in run.probe.pairs):
            task(views, torch.zeros(len(views[0])))  # statistics of batch norm
    task.train()
    figures = run.probe.measure(task)
    assert task.training
    task.eval()
    features, others, projections = _pass(run.probe, task)
    assert figures["probe/rankme"] == pytest.approx(rankme(features))
    assert figures["probe/ranking"] == pytest.approx(pair_ranking(features, others))
    assert figures["probe/projection_std"] == pytest.approx(feature_std(projections))
    assert figures["probe/weight_change"] == 0
    assert figures["probe/distinct_images"] > 90
    assert figures == run.probe.measure(task)  # the same views again
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.mul_(2)
    assert run.probe.measure(task)["probe/weight_change"] == pytest.approx(1)


@pytest.mark.slow
def test_before_the_first_step_batch_norm_has_the_statistics_of_the_images(tmp_path):
    run = build(PretrainOptions.of(**SMALL, epochs=1, out=str(tmp_path)))
    task = run.training.task
    before = {name: value.clone() for name, value in task.state_dict().items()}
    figures = run.probe.measure(task)
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    task.train()
    features, others, _ = _pass(run.probe, task)
    assert figures["probe/rankme"] == pytest.approx(rankme(features))
    assert figures["probe/ranking"] == pytest.approx(pair_ranking(features, others))


@pytest.mark.slow
def test_features_that_are_not_finite_are_told_as_nan(tmp_path):
    run = build(PretrainOptions.of(**SMALL, epochs=1, out=str(tmp_path)))
    with torch.no_grad():
        next(run.training.task.backbone.parameters()).fill_(torch.nan)
    figures = run.probe.measure(run.training.task)
    assert figures["probe/rankme"] != figures["probe/rankme"]
    assert figures["probe/distinct_images"] > 90


@pytest.mark.slow
def test_images_without_labels_have_figures_on_the_way(tmp_path):
    import sslortho

    images = torch.randint(0, 256, (120, 3, 32, 32), dtype=torch.uint8).numpy()
    own = {"batch_size": 40, "subset": None, "data": None}
    options = {name: value for name, value in {**SMALL, **own}.items() if value is not None}
    options["model"] = options.pop("backbone")
    found = sslortho.pretrain(
        images, **options, epochs=2, evaluate_every=1, validation=0.2, lr=1.0, out=tmp_path / "o"
    )
    records = [r for r in read_metrics(found.folder / "metrics.jsonl") if "probe/rankme" in r]
    assert [r["epoch"] for r in records] == [0, 1, 2]
    for record in records:
        assert {"val_loss", "probe/alignment", "probe/uniformity", "probe/feature_std"} <= set(
            record
        )
        assert record["probe/images"] == 24  # the held-out ones
