import sys

import pytest
import torch
from helpers.methods import BATCH, create, draw_views

from sslortho.methods import METHODS, load_method
from sslortho.methods.task import pass_views, spread


@pytest.mark.parametrize("name", METHODS)
def test_only_what_learns_has_a_gradient_and_the_rest_is_logged(name):
    task = create(name)
    metrics = task(draw_views(), torch.zeros(BATCH))
    metrics.pop("loss").backward()
    assert metrics
    assert not any(value.requires_grad for value in metrics.values())
    learning = [p for p in task.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in learning)
    state = {name: value.clone() for name, value in task.state_dict().items()}
    again = create(name)
    again.load_state_dict(state)
    views = draw_views(seed=2)
    ours = task(views, torch.zeros(BATCH))["loss"]
    assert torch.equal(again(views, torch.zeros(BATCH))["loss"], ours)


def test_neighbours_of_one_size_pass_together_whichever_side_differs():
    views = [torch.randn(2, 3, *size) for size in ((4, 6), (4, 6), (5, 6), (5, 4))]
    passes = []

    def network(images):
        passes.append(tuple(images.shape))
        return images.flatten(1)[:, :5]

    outputs = pass_views(network, views)
    assert passes == [(4, 3, 4, 6), (2, 3, 5, 6), (2, 3, 5, 4)]
    for output, view in zip(outputs, views, strict=True):
        assert torch.equal(output, view.flatten(1)[:, :5])


def test_spread_is_1_on_the_sphere_and_0_in_a_point():
    torch.manual_seed(0)
    assert float(spread(torch.randn(4000, 50))) == pytest.approx(1, abs=0.02)
    assert float(spread(torch.ones(10, 5))) == 0


@pytest.mark.parametrize("name", [name for name in METHODS if load_method(name).packages])
def test_a_missing_package_is_named_with_the_remedy(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightly", None)
    message = rf"{METHODS[name]} needs lightly, which is not installed: pip install lightly$"
    with pytest.raises(ValueError, match=message):
        create(name)
