import numpy as np
import pytest
import torch
from sklearn import linear_model, preprocessing
from torch.nn import functional

from sslortho.evaluate import LogisticRegression
from sslortho.evaluate import linear_probe as linear_probe_module


def blobs(seed, count=300, dim=5, classes=3):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    features = torch.randn(classes, dim, generator=generator)[labels] * 2
    features = features + torch.randn(count, dim, generator=generator)
    return features * torch.tensor([1.0, 100.0, 0.01, 5.0, 1.0]) + 7, labels


@pytest.mark.slow
@pytest.mark.parametrize("block", [1, 100, 2**19])
def test_coefficients_equal_scikit_learns(monkeypatch, block):
    monkeypatch.setitem(linear_probe_module.BLOCKS, "cpu", block)
    features, labels = blobs(0)
    l2 = 1e-2
    ours = LogisticRegression(features, labels, l2=l2)
    scaled = preprocessing.StandardScaler().fit_transform(features.double().numpy())
    peer = linear_model.LogisticRegression(C=1 / (l2 * len(labels)), tol=1e-9, max_iter=5000)
    peer.fit(scaled, labels.numpy())
    # the free bias is determined up to a common constant
    bias = ours.bias - ours.bias.mean()
    np.testing.assert_allclose(ours.weight.numpy(), peer.coef_, atol=2e-4)
    np.testing.assert_allclose(bias.numpy(), peer.intercept_ - peer.intercept_.mean(), atol=2e-4)
    test, _ = blobs(1)
    expected = peer.predict((test.double().numpy() - ours.mean.numpy()) / ours.scale.numpy())
    np.testing.assert_array_equal(ours.predict(test).numpy(), expected)


def largest_gradient(probe, features, labels):
    """Gradient of the published objective at the fit, by autograd."""
    x = features.double()
    x = (x - x.mean(dim=0)) / x.std(dim=0, correction=0)
    weight, bias = (p.clone().requires_grad_() for p in (probe.weight, probe.bias))
    loss = functional.cross_entropy(x @ weight.mT + bias, labels)
    (loss + 0.5 * probe.l2 * weight.square().sum()).backward()
    return float(max(weight.grad.abs().max(), bias.grad.abs().max()))


@pytest.mark.parametrize("l2", [1e-4, 1e-2, 1.0])
def test_the_fit_is_an_optimum_by_autograd(l2):
    features, labels = blobs(5, count=400, dim=5, classes=4)
    probe = LogisticRegression(features, labels, l2)
    assert probe.converged
    assert 1 < probe.iterations < probe.MAX_ITERATIONS
    assert largest_gradient(probe, features, labels) < 2e-6


@pytest.mark.parametrize("l2", [1e-6, 1e-5])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_weak_l2_is_fitted_to_its_tolerance(monkeypatch, l2, seed):
    """Classes that overlap, so that the loss hardly changes long before the gradient is small."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(300, 20, generator=generator)
    labels = torch.randint(0, 5, (300,), generator=generator)
    features += 0.3 * torch.randn(5, 20, generator=generator)[labels]
    probe = LogisticRegression(features, labels, l2)
    assert probe.converged
    assert largest_gradient(probe, features, labels) <= 1.01 * l2 / 100
    monkeypatch.setattr(LogisticRegression, "MAX_ITERATIONS", probe.iterations - 5)
    cut = LogisticRegression(features, labels, l2)
    assert not cut.converged
    assert largest_gradient(cut, features, labels) > l2 / 100


def test_a_start_changes_the_way_and_not_the_end():
    features, labels = blobs(6, count=500)
    other = LogisticRegression(3 * features[:400] + 5, labels[:400], 2e-3)
    cold = LogisticRegression(features, labels, 1e-3)
    elsewhere = LogisticRegression(features, labels, 1e-3, start=other)
    near = LogisticRegression(features, labels, 1e-3, start=cold)
    assert near.iterations < cold.iterations / 4
    for probe in (elsewhere, near):
        torch.testing.assert_close(probe.weight, cold.weight, rtol=1e-3, atol=2e-4)


def test_a_fit_that_is_cut_short_says_so(monkeypatch):
    features, labels = blobs(6, count=500)
    assert LogisticRegression(features, labels).converged
    monkeypatch.setattr(LogisticRegression, "MAX_ITERATIONS", 10)
    probe = LogisticRegression(features, labels)
    assert probe.iterations == 10
    assert not probe.converged


def test_a_start_is_that_classifier_whatever_the_scale_of_its_features(monkeypatch):
    features, labels = blobs(6, count=500)
    other = LogisticRegression(3 * features[:400] + 5, labels[:400], 2e-3)
    monkeypatch.setattr(LogisticRegression, "MAX_ITERATIONS", 0)
    probe = LogisticRegression(features, labels, 1e-3, start=other)
    torch.testing.assert_close(probe.logits(features), other.logits(features))


def test_rows_are_a_fit_to_those_alone():
    features, labels = blobs(7)
    rows = torch.arange(0, 300, 2)
    part = LogisticRegression(features, labels, rows=rows)
    alone = LogisticRegression(features[rows], labels[rows])
    torch.testing.assert_close(part.weight, alone.weight, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(part.mean, alone.mean)


def test_the_linear_layer_is_the_same_classifier():
    features, labels = blobs(8)
    probe = LogisticRegression(features, labels)
    logits = probe.logits(features)
    assert logits.dtype == torch.float64
    layer = probe.as_linear()
    torch.testing.assert_close(layer(features).double().detach(), logits, rtol=1e-3, atol=1e-3)
    assert torch.equal(probe.predict(features), logits.argmax(dim=1))


def test_classes_that_are_not_seen_are_not_predicted():
    features, labels = blobs(9)
    probe = LogisticRegression(features, 2 * labels, classes=7)
    assert probe.weight.shape == (7, 5)
    assert set(probe.predict(features).tolist()) == {0, 2, 4}


@pytest.mark.parametrize("value", [3.0, 0.1])
def test_constant_features_do_no_harm(value):
    features, labels = blobs(2)
    padded = torch.cat([features, torch.full((len(features), 1), value)], dim=1)
    plain = LogisticRegression(features, labels)
    probe = LogisticRegression(padded, labels)
    assert torch.equal(probe.predict(padded), plain.predict(features))
    assert probe.weight[:, -1].abs().max() < 1e-6


def test_what_float32_cannot_tell_apart_is_constant():
    features, labels = blobs(2)
    rounding = torch.nextafter(torch.tensor(1000.0), torch.tensor(2000.0))
    column = torch.where(labels == 0, rounding, torch.tensor(1000.0))
    padded = torch.cat([features, column[:, None]], dim=1)
    plain = LogisticRegression(features, labels)
    assert (plain.predict(features) != labels).any()
    assert torch.equal(LogisticRegression(padded, labels).predict(padded), plain.predict(features))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.zeros(300).long()}, "all 0.*two classes"),
        ({"labels": torch.arange(300) % 3 - 1}, "labels go down to -1"),
        ({"labels": torch.arange(300) % 3 - 3}, "labels go down to -3"),
        ({"classes": 2}, "classes=2, but labels go up to 2"),
        ({"l2": -1.0}, "l2=-1.0"),
        ({"features": torch.full((300, 5), torch.nan)}, "features of 300 images are not finite"),
        ({"features": torch.empty(0, 5), "labels": torch.empty(0).long()}, "no images"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change, message):
    features, labels = blobs(0)
    with pytest.raises(ValueError, match=message):
        LogisticRegression(**{"features": features, "labels": labels, **change})


def test_fits_inside_no_grad():
    features, labels = blobs(3)
    with torch.no_grad():
        probe = LogisticRegression(features, labels)
    assert (probe.predict(features) == labels).double().mean() > 0.8
