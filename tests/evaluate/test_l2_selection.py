import numpy as np
import pytest
import torch
from sklearn import metrics

from sslortho.evaluate import LogisticRegression, select_l2
from sslortho.evaluate.l2_selection import CANDIDATES, held_out_mask


def unequal_classes(seed, count, dim=40):
    """Four of five images are of the first class; one dimension tells them apart, the rest do not."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(count) % 5 == 0).long()
    features = torch.randn(count, dim, generator=generator)
    features[:, 0] += 2.5 * labels
    return features, labels


def test_the_held_out_part_is_balanced_and_leaves_of_every_class():
    labels = torch.cat(
        [torch.full((count,), c) for c, count in enumerate([100, 55, 7, 2, 1, 0, 30])]
    )
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    mask = held_out_mask(labels, 0.2, 3)
    held = torch.bincount(labels[mask], minlength=7)
    assert held.tolist() == [20, 11, 1, 1, 0, 0, 6]
    assert torch.equal(mask, held_out_mask(labels, 0.2, 3))
    assert not torch.equal(mask, held_out_mask(labels, 0.2, 4))
    # all alike: over the seeds every image of a class is held out as often as any
    often = sum(held_out_mask(labels, 0.2, seed).double() for seed in range(300)) / 300
    assert abs(often[labels == 0] - 0.2).max() < 0.1
    assert held_out_mask(labels, 0.999, 0)[labels == 3].sum() == 1


@pytest.mark.slow
def test_too_strong_and_too_weak_are_not_chosen():
    features, labels = unequal_classes(0, 600, dim=120)
    selection = select_l2(features, labels, held_out=0.5)
    assert [trial.l2 for trial in selection.trials] == list(CANDIDATES)
    assert 1e-4 < selection.l2 < 1
    assert not selection.at_edge
    strongest, weakest = selection.trials[0], selection.trials[-1]
    test, truth = unequal_classes(1, 2000, dim=120)
    best, *ends = (
        (LogisticRegression(features, labels, l2).predict(test) == truth).double().mean()
        for l2 in (selection.l2, strongest.l2, weakest.l2)
    )
    assert best > max(ends) + 0.03
    chosen = next(t for t in selection.trials if t.l2 == selection.l2)
    assert chosen.top1 > max(strongest.top1, weakest.top1)


def test_trials_are_fits_to_the_rest_measured_on_the_held_out():
    features, labels = unequal_classes(2, 300)
    selection = select_l2(features, labels, candidates=[1e-2, 1.0, 1e-1], held_out=0.3, seed=5)
    mask = held_out_mask(labels, 0.3, 5)
    assert [trial.l2 for trial in selection.trials] == [1.0, 1e-1, 1e-2]
    for trial in selection.trials:
        probe = LogisticRegression(features[~mask], labels[~mask], trial.l2)
        p = torch.softmax(probe.logits(features[mask]), dim=1).numpy()
        truth = labels[mask].numpy()
        assert trial.top1 == pytest.approx(100 * np.mean(p.argmax(axis=1) == truth))
        assert trial.loss == pytest.approx(metrics.log_loss(truth, p), rel=1e-3)
        assert trial.converged


def test_among_equal_accuracies_the_lower_loss_decides_and_an_edge_is_told():
    labels = torch.arange(90) % 3
    features = torch.eye(3)[labels] + 1e-3 * torch.randn(
        90, 3, generator=torch.Generator().manual_seed(0)
    )
    with pytest.warns(
        UserWarning, match=r"l2=0\.001 is the end of the candidates \(0\.1 to 0\.001\)"
    ):
        selection = select_l2(features, labels, candidates=(1e-1, 1e-2, 1e-3))
    assert [trial.top1 for trial in selection.trials] == [100.0] * 3
    assert selection.l2 == 1e-3
    assert selection.at_edge


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": (1e-3,)}, "two or more"),
        ({"candidates": (1e-3, 1e-3)}, "two or more"),
        ({"candidates": (0.0, 1e-3)}, "all above 0"),
        ({"held_out": 1.0}, r"held_out=1.0 must be between 0 and 1"),
        ({"held_out": 0.0}, r"held_out=0.0 must be between 0 and 1"),
        ({"labels": torch.arange(50) - 1}, "labels go down to -1"),
        ({"labels": torch.arange(50)}, "no class has two images"),
        ({"labels": torch.zeros(50).long()}, "two classes"),
        ({"features": torch.full((50, 40), torch.inf)}, "not finite"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(change, message):
    features, labels = unequal_classes(0, 50)
    with pytest.raises(ValueError, match=message):
        select_l2(**{"features": features, "labels": labels, **change})
