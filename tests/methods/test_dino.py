import copy

import pytest
import torch
from helpers.methods import BATCH, DIM, SIDE, WIDTHS, create, draw_views
from helpers.ranks import run_on_ranks
from torch import nn
from torch.nn.functional import log_softmax, softmax

from sslortho.methods import load_method


def test_dino_sorts_every_view_as_the_teacher_sorts_the_other_global_ones():
    views = draw_views(4)
    task = create("dino", teacher_temperature=0.05)
    for parameter in task.backbone.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    student = task.student(views)  # all of one size pass together
    backbone, head = task.student
    expected = head(backbone(torch.cat(views))).chunk(4)
    assert all(torch.equal(a, b) for a, b in zip(student, expected, strict=True))
    teacher = task.projector(task.backbone(torch.cat(views[:2]))).chunk(2)
    terms = [
        -(softmax(t / 0.05, dim=1) * log_softmax(s / 0.1, dim=1)).sum(dim=1).mean()
        for i, t in enumerate(teacher)
        for j, s in enumerate(student)
        if i != j
    ]
    loss = task(views, torch.zeros(BATCH))["loss"]
    torch.testing.assert_close(loss, sum(terms) / 6)
    # the centre, a moving average of 0.9, of what the teacher said
    torch.testing.assert_close(task.loss.center[0, 0], 0.1 * torch.cat(teacher).mean(dim=0))
    loss.backward()
    assert all(p.grad is None for p in task.backbone.parameters())


def test_global_views_of_different_sizes_pass_the_teacher_one_by_one():
    square, other = draw_views()
    wide = other.reshape(BATCH, 3, SIDE // 2, 2 * SIDE)
    task = create("dino", teacher_temperature=0.05)
    for parameter in task.backbone.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    backbone, head = task.student
    student = [head(backbone(view)) for view in (square, wide)]
    teacher = [task.projector(task.backbone(view)) for view in (square, wide)]
    terms = [
        -(softmax(t / 0.05, dim=1) * log_softmax(s / 0.1, dim=1)).sum(dim=1).mean()
        for t, s in zip(teacher, student[::-1], strict=True)
    ]
    loss = task((square, wide), torch.zeros(BATCH))["loss"]
    torch.testing.assert_close(loss, sum(terms) / 2)


def test_the_entropies_of_the_teacher_are_those_of_its_distributions():
    views = draw_views()
    task = create("dino", teacher_temperature=0.05)
    task.loss.center += 0.01 * torch.randn_like(task.loss.center)
    centre = task.loss.center[0].clone()
    target = task.projector(task.backbone(torch.cat(views[:2]))).chunk(2)[0]
    p = softmax((target - centre) / 0.05, dim=1).double()
    found = task(views, torch.zeros(BATCH))
    each = torch.distributions.Categorical(p).entropy().mean()
    mean = torch.distributions.Categorical(p.mean(dim=0)).entropy()
    torch.testing.assert_close(found["teacher_entropy"].double(), each, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["teacher_mean_entropy"].double(), mean, rtol=1e-4, atol=1e-5)
    assert each < mean


def test_dino_keeps_its_output_layer_in_the_first_epochs():
    task = create("dino", freeze_output_epochs=2)
    for epoch, frozen in ((1, True), (2, False)):
        task.before_step(step=7, epoch=epoch, total_steps=30)
        task.zero_grad()
        task(draw_views(), torch.zeros(BATCH))["loss"].backward()
        task.after_backward()
        grads = [p.grad for p in task.student[1].last_layer.parameters() if p.requires_grad]
        assert len(grads) == 1
        assert (grads[0] is None) == frozen


@pytest.mark.parametrize(("norm", "expected"), [(nn.BatchNorm2d, True), (nn.Identity, False)])
def test_dinos_projector_has_batch_norm_where_the_backbone_has_it(norm, expected):
    parts = nn.Conv2d(3, DIM, 3), norm(DIM), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    dino = load_method("dino")
    task = dino(nn.Sequential(*parts), DIM, dino.Options(projector=WIDTHS["dino"]))
    norms = [part for part in task.projector.modules() if isinstance(part, nn.BatchNorm1d)]
    assert bool(norms) == expected


def _entropy_of_the_mean_on_a_rank(rank, views):
    torch.manual_seed(0)
    dino = load_method("dino")
    parts = nn.Flatten(), nn.Linear(3 * SIDE * SIDE, DIM)
    task = dino(
        nn.Sequential(*parts), DIM, dino.Options(projector=WIDTHS["dino"], teacher_temperature=0.05)
    )
    if rank is None:
        return softmax(task.projector(task.backbone(views[0])) / 0.05, dim=1).detach()
    half = tuple(view.chunk(2)[rank] for view in views)
    return task(half, torch.zeros(BATCH // 2))["teacher_mean_entropy"]


@pytest.mark.ranks
def test_the_entropy_of_the_mean_is_that_of_all_ranks(tmp_path):
    views = draw_views()
    found = run_on_ranks(_entropy_of_the_mean_on_a_rank, 2, tmp_path, views)
    mean = _entropy_of_the_mean_on_a_rank(None, views).double().mean(dim=0)
    expected = torch.distributions.Categorical(mean).entropy().item()
    assert [value.item() for value in found] == pytest.approx([expected] * 2, rel=1e-5)


def test_the_batch_norm_of_the_head_sees_crops_of_all_sizes_together():
    """MultiCropWrapper of the paper's code: a pass of the backbone for each size, one of the head for all."""
    torch.manual_seed(0)
    method = load_method("dino")
    backbone = nn.Sequential(
        nn.Conv2d(3, DIM, 3), nn.BatchNorm2d(DIM), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    task = method(backbone, DIM, method.Options(projector=WIDTHS["dino"]))
    assert any(isinstance(module, nn.BatchNorm1d) for module in task.student[1].modules())
    large, small = torch.randn(2, BATCH, 3, 8, 8), 3 + torch.randn(3, BATCH, 3, 5, 5)
    body, head = copy.deepcopy(task.student)
    features = torch.cat([body(torch.cat(tuple(large))), body(torch.cat(tuple(small)))])
    student = head(features).chunk(5)
    teacher = task.projector(task.backbone(torch.cat(tuple(large)))).chunk(2)
    terms = [
        -(softmax(t / task.loss.teacher_temp, dim=1) * log_softmax(s / 0.1, dim=1))
        .sum(dim=1)
        .mean()
        for i, t in enumerate(teacher)
        for j, s in enumerate(student)
        if i != j
    ]
    loss = task((*large, *small), torch.zeros(BATCH))["loss"]
    torch.testing.assert_close(loss, sum(terms) / len(terms))
    apart = [head(body(views)) for views in (large[0], small[0])]  # the test can tell
    assert not torch.allclose(apart[1], student[2], atol=1e-3)
