import torch
from helpers.methods import BATCH, DIM, cosine, create, draw_views, linear_layers, projections
from torch import nn


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


def test_byols_predictor_has_the_widths_of_its_projector():
    hidden, output = linear_layers(create("byol").predictor)
    assert (hidden.weight.shape, output.weight.shape) == ((9, 7), (7, 9))
    task = create("byol")
    own = type(task)(task.backbone, DIM, type(task).Options(), projector=nn.Linear(DIM, 5))
    hidden, output = linear_layers(own.predictor)
    assert (hidden.weight.shape, output.weight.shape) == ((20, 5), (5, 20))
