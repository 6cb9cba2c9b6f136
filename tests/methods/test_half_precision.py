"""Methods whose weights or inputs are of half precision: what float32 gives, rounded."""

import pytest
import torch
from helpers.methods import BATCH, create, draw_views
from torch import nn

from sslortho.methods import METHODS, Classification
from sslortho.methods.task import compute_in_float32
from sslortho.methods.teacher import MovingAverage

HALF = [torch.bfloat16, torch.float16]


def step(task, views):
    """One training step without an optimizer; the loss."""
    task.before_step(0, 0, 100)
    loss = task(views, torch.zeros(BATCH))["loss"]
    loss.backward()
    task.after_backward()
    task.after_step()
    return loss.detach()


@pytest.mark.parametrize("dtype", [*HALF, torch.float64], ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_in_any_precision(name, dtype):
    """Its loss is never of half precision, and near that of float32."""
    views = draw_views()
    task, exact = create(name).to(dtype), create(name)
    losses = [(step(task, [v.to(dtype) for v in views]), step(exact, views)) for _ in range(2)]
    for ours, theirs in losses:
        assert ours.dtype == torch.promote_types(dtype, torch.float32)
        bound = 1e-5 if dtype == torch.float64 else 0.05
        torch.testing.assert_close(ours.float(), theirs, rtol=bound, atol=bound)
    for parameter in task.parameters():
        if parameter.grad is not None:
            assert parameter.grad.dtype == dtype
            assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", ["simclr", "vicreg", "byol", "simsiam", "moco_v2"])
def test_a_loss_of_half_precision_is_that_of_float32_on_the_same_numbers(name, dtype):
    generator = torch.Generator().manual_seed(3)
    dim = 8 if name == "simsiam" else 7
    z = (60 * torch.randn(2, BATCH, dim, generator=generator)).to(dtype)
    z[0, 0] = 300  # whose squares are beyond float16
    losses = []
    for views in (z, z.float()):
        views = views.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            loss = compute_in_float32(create(name).loss, *views)
        (gradient,) = torch.autograd.grad(loss, views)
        losses.append((loss.detach(), gradient.float()))
    (ours, gradient), (exact, exact_gradient) = losses
    assert ours.dtype == torch.float32
    assert torch.equal(ours, exact)
    assert torch.equal(gradient, exact_gradient.to(dtype).float())


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("momentum", [0.9, 0.996, 0.9999])
def test_a_teacher_of_half_precision_is_the_exact_average_rounded(momentum, dtype):
    torch.manual_seed(0)
    student, teacher = nn.Linear(20, 30).to(dtype), nn.Linear(20, 30).to(dtype)
    expected = [p.detach().double() for p in teacher.parameters()]
    average = MovingAverage()
    for _ in range(200):
        with torch.no_grad():
            for p in student.parameters():
                p.add_(0.1 * torch.randn_like(p))
        average.update((student,), (teacher,), momentum)
        for mean, p in zip(expected, student.parameters(), strict=True):
            mean.mul_(momentum).add_(p.detach().double(), alpha=1 - momentum)
    for ours, exact in zip(teacher.parameters(), expected, strict=True):
        assert ours.dtype == dtype
        # one rounding to half precision, and nothing else
        half_ulp = torch.finfo(dtype).eps / 2 * 1.001
        torch.testing.assert_close(ours.detach().double(), exact, rtol=half_ulp, atol=1e-6)


@pytest.mark.parametrize("name", ["byol", "moco_v2", "dino"])
def test_a_resumed_teacher_of_half_precision_continues_exactly(name):
    views = [view.bfloat16() for view in draw_views()]
    straight, stopped = (create(name, teacher_momentum=0.99).bfloat16() for _ in range(2))
    for task in (straight, stopped):
        for _ in range(3):
            step(task, views)
    resumed = create(name, teacher_momentum=0.99).bfloat16()
    state = {key: value.clone() for key, value in stopped.state_dict().items()}
    assert any(key.startswith("average.") for key in state)
    resumed.load_state_dict(state)
    for task in (straight, resumed):
        with torch.no_grad():
            for p in task.parameters():
                if p.requires_grad:
                    p.add_(0.01)
        for _ in range(3):
            step(task, views)
    ours, theirs = resumed.state_dict(), straight.state_dict()
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


@pytest.mark.parametrize("name", ["byol", "moco_v2", "dino"])
def test_in_float32_a_teacher_needs_no_copy(name):
    task = create(name)
    keys = set(task.state_dict())
    step(task, draw_views())
    assert set(task.state_dict()) == keys
    assert not any(key.startswith("average") for key in keys)


def test_a_checkpoint_without_copies_starts_them_from_the_teacher():
    task = create("byol").bfloat16()
    views = [view.bfloat16() for view in draw_views()]
    before = {key: value.clone() for key, value in task.state_dict().items()}
    step(task, views)
    task.load_state_dict(before)
    task.average.update((task.backbone, task.projector), tuple(task.teacher), 1.0)
    for key, value in task.teacher.state_dict().items():
        assert torch.equal(value, before[f"teacher.{key}"])


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_what_a_loss_remembers_stays_float32(dtype):
    dino, moco = create("dino"), create("moco_v2")
    for parameter in dino.backbone.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    step(dino, draw_views())
    centre, queue = dino.loss.center.clone(), moco.loss.memory_bank.bank.clone()
    dino.to(dtype)
    moco.to(dtype)
    assert torch.equal(dino.loss.center, centre)
    assert torch.equal(moco.loss.memory_bank.bank, queue)
    assert moco.loss.memory_bank.bank_ptr.dtype == torch.int64
    with torch.no_grad():
        said = dino.projector(dino.backbone(torch.cat(draw_views()).to(dtype))).float()
    step(dino, [view.to(dtype) for view in draw_views()])
    torch.testing.assert_close(dino.loss.center, 0.9 * centre + 0.1 * said.mean(dim=0))
    assert dino.loss.center.dtype == torch.float32
    wide = create("moco_v2").double()
    assert wide.loss.memory_bank.bank.dtype == torch.float64


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_a_classifier_of_half_precision_gives_float32_logits(dtype, bias):
    torch.manual_seed(0)
    task = Classification(nn.Flatten(), nn.Linear(12, 5, bias=bias)).to(dtype)
    images, labels = torch.randn(8, 3, 2, 2).to(dtype), torch.arange(8) % 5
    exact = Classification(nn.Flatten(), nn.Linear(12, 5, bias=bias))
    exact.load_state_dict(task.state_dict())
    assert torch.equal(task.classify(images), exact.classify(images.float()))
    assert task.classify(images).dtype == torch.float32
    assert torch.equal(
        *(t((x,), labels)["loss"] for t, x in ((task, images), (exact, images.float())))
    )


def test_a_classifier_in_float64_is_one():
    task = Classification(nn.Flatten(), nn.Linear(12, 5)).double()
    assert task.classify(torch.ones(2, 3, 2, 2).double()).dtype == torch.float64


def test_logits_that_are_nan_are_never_right():
    task = Classification(nn.Flatten(), nn.Linear(12, 5))
    images = torch.randn(8, 3, 2, 2)
    labels = task.classify(images).argmax(dim=1)
    assert task((images,), labels)["train_top1"] == 100
    images[:2] = torch.nan
    assert task((images,), torch.cat([torch.zeros(2).long(), labels[2:]]))["train_top1"] == 75
