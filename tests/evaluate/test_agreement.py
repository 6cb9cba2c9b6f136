"""Agreement of two views."""

import pytest
import torch

from sslortho.evaluate import neighbour_agreement


def test_it_is_the_share_of_images_that_find_themselves():
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(40, 6, generator=generator)
    second = first + 0.5 * torch.randn(40, 6, generator=generator)
    cosine = torch.nn.functional.cosine_similarity(first[:, None], second[None], dim=2)
    hits = sum(int(row.argmax()) == i for i, row in enumerate(cosine))
    assert 0 < hits < 40
    assert neighbour_agreement(first, second) == pytest.approx(100 * hits / 40)


def test_equal_views_agree_and_their_length_does_not_matter():
    first = torch.randn(30, 5, generator=torch.Generator().manual_seed(1))
    assert neighbour_agreement(first, 3 * first) == 100


def test_collapsed_features_are_at_chance():
    ones = torch.ones(20, 4)
    assert neighbour_agreement(ones, ones) == 5


def test_other_shapes_are_an_error():
    with pytest.raises(ValueError, match="differ"):
        neighbour_agreement(torch.ones(3, 2), torch.ones(4, 2))
