import torch
from helpers.methods import cosine, create, draw_views, linear_layers, loss_of, projections


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


def test_the_hidden_layer_of_simsiams_predictor_has_a_quarter_of_the_width():
    hidden, output = linear_layers(create("simsiam").predictor)
    assert (hidden.weight.shape, output.weight.shape) == ((2, 8), (8, 2))
