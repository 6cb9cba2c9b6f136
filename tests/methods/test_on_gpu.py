"""A step of every method on a GPU: the loss and the gradients of a CPU, and no wait for the device."""

import pytest
import torch
from helpers.gpu import DEVICE, never_waits, on_gpu
from helpers.methods import BATCH, create, draw_views

from sslortho.methods import METHODS


def step(task, views, device):
    """A training step without an optimizer; its loss."""
    task.zero_grad()
    task.before_step(0, 0, 100)
    loss = task(views, torch.zeros(BATCH, dtype=torch.int64, device=device))["loss"]
    loss.backward()
    task.after_backward()
    task.after_step()
    return loss.detach()


@on_gpu
@pytest.mark.parametrize("name", METHODS)
def test_steps_are_those_of_a_cpu(name):
    views = draw_views()
    task, plain = create(name).to(DEVICE), create(name)
    there = tuple(view.to(DEVICE) for view in views)
    for _ in range(3):
        ours, theirs = step(task, there, DEVICE), step(plain, views, "cpu")
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-4, atol=1e-4)
    pairs = zip(task.named_parameters(), plain.parameters(), strict=True)
    for (key, ours), theirs in pairs:
        assert (ours.grad is None) == (theirs.grad is None)
        if theirs.grad is not None:
            bound = 1e-3 * float(theirs.grad.abs().max()) + 1e-6
            torch.testing.assert_close(ours.grad.cpu(), theirs.grad, rtol=1e-3, atol=bound, msg=key)
    for key, value in plain.state_dict().items():  # queues, teachers, centres, statistics
        torch.testing.assert_close(
            task.state_dict()[key].cpu(), value, rtol=1e-3, atol=1e-4, msg=key
        )


@on_gpu
@pytest.mark.parametrize("name", METHODS)
def test_steps_never_wait_for_the_device(name):
    task = create(name).to(DEVICE)
    views = tuple(view.to(DEVICE) for view in draw_views())
    labels = torch.zeros(BATCH, dtype=torch.int64, device=DEVICE)
    step(task, views, DEVICE)
    with never_waits():
        task.before_step(1, 0, 100)
        task(views, labels)["loss"].backward()
        task.after_backward()
        task.after_step()


@on_gpu
@pytest.mark.parametrize("name", METHODS)
def test_autocast_to_bfloat16_is_near(name):
    task, plain = create(name).to(DEVICE), create(name)
    views = draw_views()
    with torch.autocast(DEVICE.type, torch.bfloat16):
        ours = step(task, tuple(view.to(DEVICE) for view in views), DEVICE)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.cpu(), step(plain, views, "cpu"), rtol=0.05, atol=0.05)
