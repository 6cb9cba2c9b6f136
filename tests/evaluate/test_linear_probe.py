import numpy as np
import torch
from sklearn import linear_model, preprocessing

from sslortho.evaluate import LogisticRegression


def blobs(seed, count=300, dim=5, classes=3):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    features = torch.randn(classes, dim, generator=generator)[labels] * 2
    features = features + torch.randn(count, dim, generator=generator)
    return features * torch.tensor([1.0, 100.0, 0.01, 5.0, 1.0]) + 7, labels


def test_coefficients_equal_scikit_learns():
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


def test_constant_features_do_no_harm():
    features, labels = blobs(2)
    padded = torch.cat([features, torch.full((len(features), 1), 3.0)], dim=1)
    plain = LogisticRegression(features, labels).predict(features)
    assert torch.equal(LogisticRegression(padded, labels).predict(padded), plain)


def test_fits_inside_no_grad():
    features, labels = blobs(3)
    with torch.no_grad():
        probe = LogisticRegression(features, labels)
    assert (probe.predict(features) == labels).double().mean() > 0.8
