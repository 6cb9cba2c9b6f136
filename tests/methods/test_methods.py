"""What the methods make of a batch, written out with plain operations."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax, normalize, softmax

from sslortho.methods import METHODS, load_method

DIM, SIDE, BATCH = 6, 4, 8
WIDTHS = {
    "barlow_twins": "9-7",
    "simclr": "9-7",
    "vicreg": "9-9-7",
    "byol": "9-7",
    "simsiam": "8-8-8",
    "moco_v2": "9-7",
    "dino": "9-5-7",
}
TEACHERS = ("byol", "moco_v2", "dino")


def create(name, **options):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, DIM), nn.BatchNorm1d(DIM))
    method = load_method(name)
    return method(backbone, DIM, method.Options(**{"projector": WIDTHS[name], **options}))


def draw_views(count=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(BATCH, 3, SIDE, SIDE, generator=generator) for _ in range(count))


def loss_of(method, views, **options):
    task = create(method, **options)
    return task, task(views, torch.zeros(BATCH))["loss"]


def projections(task, views):
    return [task.projector(task.backbone(view)) for view in views]


def cosine(a, b):
    return (normalize(a, dim=1) * normalize(b, dim=1)).sum(dim=1).mean()


def test_simclr_tells_each_view_from_all_others_of_the_batch():
    views = draw_views()
    task, loss = loss_of("simclr", views, temperature=0.3)
    z = normalize(torch.cat(projections(task, views)), dim=1)
    logits = (z @ z.T / 0.3).fill_diagonal_(-math.inf)
    partner = torch.arange(2 * BATCH).roll(BATCH)
    torch.testing.assert_close(loss, cross_entropy(logits, partner))


def test_vicreg_weighs_its_three_terms():
    views = draw_views()
    weights = {"invariance": 3.0, "variance": 5.0, "covariance": 7.0}
    task, loss = loss_of("vicreg", views, **weights)
    a, b = projections(task, views)
    spread = sum((1 - (z.var(dim=0) + 1e-4).sqrt()).relu().mean() for z in (a, b)) / 2
    mixed = sum(((c := z.T.cov()) - c.diag().diag()).square().sum() / 7 for z in (a, b))
    expected = 3 * (a - b).square().mean() + 5 * spread + 7 * mixed
    torch.testing.assert_close(loss, expected)


def test_byol_predicts_the_teacher_both_ways_and_it_has_no_gradient():
    views = draw_views()
    task = create("byol")
    for parameter in task.teacher.parameters():  # another network than the student
        parameter.data += 0.1 * torch.randn_like(parameter)
    loss = task(views, torch.zeros(BATCH))["loss"]
    predictions = [task.predictor(z) for z in projections(task, views)]
    targets = [task.teacher(view) for view in views]
    expected = -(cosine(predictions[0], targets[1]) + cosine(predictions[1], targets[0])) / 2
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad is None for p in task.teacher.parameters())
    assert task.predictor.layers[0].weight.grad.abs().max() > 0


def test_simsiam_stops_the_gradient_of_what_is_predicted():
    views = draw_views()
    task, loss = loss_of("simsiam", views)
    loss.backward()
    ours = {name: p.grad for name, p in task.named_parameters()}
    task.zero_grad()
    z = projections(task, views)
    targets = [t.detach().clone() for t in z]
    predictions = [task.predictor(x) for x in z]
    expected = -(cosine(predictions[0], targets[1]) + cosine(predictions[1], targets[0])) / 2
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours, {name: p.grad for name, p in task.named_parameters()})


def test_moco_tells_the_key_from_the_queue_which_then_holds_it():
    views = draw_views()
    task = create("moco_v2", queue=20, temperature=0.3)
    before = task.loss.memory_bank.bank.clone()
    loss = task(views, torch.zeros(BATCH))["loss"]
    query = normalize(task.projector(task.backbone(views[0])), dim=1)
    key = normalize(task.teacher(views[1]), dim=1)
    logits = torch.cat([(query * key).sum(dim=1, keepdim=True), query @ before.T], dim=1) / 0.3
    torch.testing.assert_close(loss, cross_entropy(logits, torch.zeros(BATCH, dtype=torch.long)))
    state = task.state_dict()  # so a resumed run has it
    torch.testing.assert_close(state["loss.memory_bank.bank"][:BATCH], key)
    assert int(state["loss.memory_bank.bank_ptr"]) == BATCH


def test_dino_sorts_every_view_as_the_teacher_sorts_the_other_global_ones():
    views = draw_views(4)
    task = create("dino", teacher_temperature=0.05)
    for parameter in task.backbone.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    student = task.student(torch.cat(views)).chunk(4)  # all of one size pass together
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


def students_and_teachers(task, name):
    if name == "dino":
        return task.student, nn.Sequential(task.backbone, task.projector)
    return nn.Sequential(task.backbone, task.projector), task.teacher


@pytest.mark.parametrize("name", TEACHERS)
def test_the_teacher_is_a_moving_average(name):
    task = create(name, teacher_momentum=0.9)
    student, teacher = students_and_teachers(task, name)
    before = [p.detach().clone() for p in teacher.parameters()]
    for ours, theirs in zip(student.parameters(), before, strict=True):
        torch.testing.assert_close(ours.detach(), theirs)
        ours.data += 1
    task.before_step(step=25, epoch=0, total_steps=101)
    task.after_step()
    # BYOL's and DINO's rises to 1: a quarter of the way, 1 - 0.1 (cos(pi / 4) + 1) / 2
    rate = 0.1 if name == "moco_v2" else 0.1 * (math.cos(math.pi / 4) + 1) / 2
    for now, then in zip(teacher.parameters(), before, strict=True):
        torch.testing.assert_close(now.detach(), then + rate)


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


def test_spread_is_1_on_the_sphere_and_0_in_a_point():
    from sslortho.methods.task import spread

    torch.manual_seed(0)
    assert float(spread(torch.randn(4000, 50))) == pytest.approx(1, abs=0.02)
    assert float(spread(torch.ones(10, 5))) == 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("barlow_twins", {"projector": "8-x"}, "projector='8-x' must be widths joined by dashes"),
        ("simclr", {"projector": "8"}, "projector='8' must be 2 widths"),
        ("simclr", {"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ("moco_v2", {"temperature": -1.0}, "temperature=-1.0 must be above 0"),
        ("vicreg", {"projector": "8"}, "one or more hidden layers of one width"),
        ("vicreg", {"projector": "8-9-8"}, "one or more hidden layers of one width"),
        ("vicreg", {"covariance": -1.0}, "covariance=-1.0 must be 0 or more"),
        ("byol", {"teacher_momentum": 1.5}, "teacher_momentum=1.5 must be from 0 to 1"),
        ("simsiam", {"projector": "8-8-9"}, "three widths that are equal"),
        ("moco_v2", {"queue": 0}, "queue=0 must be 1 key or more"),
        ("dino", {"projector": "8-8"}, "projector='8-8' must be 3 widths"),
        ("dino", {"teacher_temperature": 0.0}, "teacher_temperature=0.0 must be above 0"),
    ],
)
def test_options_are_checked(name, options, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        create(name, **options)
