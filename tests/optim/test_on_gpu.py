"""Optimizers on a GPU: their values beside a CPU's float64, memory formats, and that nothing waits."""

import copy

import pytest
import torch
from helpers.gpu import DEVICE, never_waits, on_gpu
from helpers.matrices import nearest_orthonormal
from torch import nn

from sslortho.optim import LARS, create_optimizer, orthonormalise_, param_groups

SHAPES = [(8, 4, 3, 3), (16, 8), (8, 16), (8, 8), (5,), (8, 4, 3, 3)]


def draw(shape, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def steps_of(optimizer_of, dtype, device, count=3):
    """Parameters after some steps of an optimizer on drawn gradients."""
    parameters = [nn.Parameter(draw(shape, i, dtype).to(device)) for i, shape in enumerate(SHAPES)]
    optimizer = optimizer_of(parameters)
    for step in range(count):
        for i, p in enumerate(parameters):
            p.grad = draw(p.shape, 100 * step + i + 50, dtype).to(device)
            if i == 3 and step == 1:
                p.grad.zero_()  # a ratio that is not defined
        optimizer.step()
    return [p.detach().double().cpu() for p in parameters]


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("foreach", [True, False])
def test_lars_is_that_of_float64(dtype, foreach):
    def create(parameters):
        return LARS(parameters, lr=0.5, weight_decay=0.1, foreach=foreach)

    exact = steps_of(create, torch.float64, "cpu")
    bound = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 5e-2}[dtype]
    for ours, theirs in zip(steps_of(create, dtype, DEVICE), exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=bound, atol=bound)


def create_network(seed=0):
    """Convolutions, a grouped one, norms, a linear layer."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, groups=2), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip


def set_gradients(network, seed, device, channels_last=False):
    for i, p in enumerate(network.parameters()):
        gradient = draw(p.shape, 1000 * seed + i, torch.float32).to(device)
        if channels_last and p.ndim == 4:
            gradient = gradient.to(memory_format=torch.channels_last)
        p.grad = gradient


@on_gpu
@pytest.mark.parametrize("name", ["lars", "orth_lars", "orth_sgd", "orth_adamw", "muon"])
def test_a_step_is_that_of_a_cpu_and_never_waits(name):
    networks = {"cpu": create_network(), DEVICE: create_network().to(DEVICE)}
    for device, network in networks.items():
        optimizer = create_optimizer(name, param_groups(network, orth="all"), lr=0.1)
        for step in range(5):
            set_gradients(network, step, device)
            # the first makes buffers and compares kernels, the third captures a graph
            if step >= 3 and device != "cpu":
                with never_waits():
                    optimizer.step()
            else:
                optimizer.step()
    ours, theirs = (networks[device].state_dict() for device in (DEVICE, "cpu"))
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key].cpu(), value, rtol=0, atol=3e-3, msg=key)


@on_gpu
def test_channels_last_gradients_keep_their_format_and_their_values():
    network = create_network().to(DEVICE, memory_format=torch.channels_last)
    set_gradients(network, 0, DEVICE, channels_last=True)
    wanted = {}
    for name, p in network.named_parameters():
        if p.ndim > 1:
            components = 2 if name == "3.weight" else 1
            raw = copy.deepcopy(p.grad).cpu().contiguous()
            parts = raw.reshape(components, len(raw) // components, -1)
            wanted[name] = nearest_orthonormal(parts).reshape(raw.shape).float()
    for module in network:
        weight = getattr(module, "weight", None)
        if weight is not None and weight.ndim > 1:
            orthonormalise_(weight, components=getattr(module, "groups", 1))
    for name, p in network.named_parameters():
        if p.ndim > 1:
            torch.testing.assert_close(p.grad.cpu().contiguous(), wanted[name], rtol=0, atol=2e-3)
        if p.ndim == 4:
            assert p.grad.is_contiguous(memory_format=torch.channels_last), name


@on_gpu
def test_a_gradient_that_is_not_finite_leaves_no_other_raw():
    parameters = [nn.Parameter(torch.zeros(8, 16, device=DEVICE)) for _ in range(3)]
    raw = [draw((8, 16), i, torch.float32) for i in range(3)]
    for p, gradient in zip(parameters, raw, strict=True):
        p.grad = gradient.to(DEVICE)
    parameters[1].grad[0, 0] = torch.nan
    orthonormalise_(parameters)
    for i in (0, 2):
        expected = nearest_orthonormal(raw[i]).float()
        torch.testing.assert_close(parameters[i].grad.cpu(), expected, rtol=0, atol=2e-3)
    assert not parameters[1].grad.isfinite().all()
