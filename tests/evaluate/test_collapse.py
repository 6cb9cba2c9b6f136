import pytest
import torch

from sslortho.evaluate import feature_std, rankme


def test_rankme_of_orthonormal_directions_is_their_number():
    q = torch.linalg.qr(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)))[0]
    assert rankme(q) == pytest.approx(6, rel=1e-4)


def test_rankme_of_collapsed_features_is_one():
    assert rankme(torch.ones(30, 1) @ torch.randn(1, 8)) == pytest.approx(1, abs=1e-4)


def test_rankme_of_known_spectrum_is_the_exponential_of_its_entropy():
    spectrum = torch.tensor([0.5, 0.25, 0.25])
    # entropy = 0.5 ln 2 + 2 * 0.25 ln 4 = 1.5 ln 2
    assert rankme(torch.diag(spectrum)) == pytest.approx(2**1.5, rel=1e-4)


def test_feature_std_of_gaussian_features_is_one_and_of_equal_ones_zero():
    generator = torch.Generator().manual_seed(0)
    assert feature_std(torch.randn(20_000, 64, generator=generator)) == pytest.approx(1, abs=0.01)
    assert feature_std(torch.ones(10, 4)) == pytest.approx(0, abs=1e-12)


def test_feature_std_does_not_depend_on_scale():
    features = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    assert feature_std(1000 * features) == pytest.approx(feature_std(features), rel=1e-6)
