"""Images held out to choose by."""

import pytest
import torch

from sslortho.data import balanced_subset, hold_out, load_split
from sslortho.data.image_sets import ImageArray

COUNTS = {0: 50, 1: 30, 2: 21}


@pytest.fixture(scope="module")
def data():
    """Every image is its own index, so that images can be followed."""
    labels = torch.cat([torch.full((count,), label) for label, count in COUNTS.items()])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))]
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    return ImageArray(images, labels, ("a", "b", "c"))


def numbers(part):
    return part.images[:, 0, 0, 0].tolist()


def test_every_image_is_on_one_side_in_order_with_its_label(data):
    train, held_out = hold_out(data, 0.1, seed=0)
    assert sorted(numbers(train) + numbers(held_out)) == list(range(101))
    for part in (train, held_out):
        assert numbers(part) == sorted(numbers(part))
        assert torch.equal(part.labels, data.labels[torch.tensor(numbers(part))])


def test_the_share_is_of_every_class(data):
    _, held_out = hold_out(data, 0.1, seed=0)
    assert torch.bincount(held_out.labels).tolist() == [5, 3, 2]


def test_the_choice_is_of_the_seed_alone_and_not_that_of_a_subset(data):
    assert numbers(hold_out(data, 0.3, 5)[1]) == numbers(hold_out(data, 0.3, 5)[1])
    assert numbers(hold_out(data, 0.3, 5)[1]) != numbers(hold_out(data, 0.3, 6)[1])
    digits = load_split("digits", None, "train")
    held_out = hold_out(digits, 0.1, 0)[1]
    subset = balanced_subset(digits, len(held_out), 0)
    assert not torch.equal(held_out.images, subset.images)


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_an_empty_side_is_refused(data, share):
    with pytest.raises(ValueError, match=rf"validation={share} holds out (0|101) of 101"):
        hold_out(data, share, 0)
