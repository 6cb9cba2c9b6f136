import torch
from helpers.methods import draw_views, loss_of, projections


def test_vicreg_weighs_its_three_terms():
    views = draw_views()
    weights = {"invariance": 3.0, "variance": 5.0, "covariance": 7.0}
    task, loss = loss_of("vicreg", views, **weights)
    a, b = projections(task, views)
    spread = sum((1 - (z.var(dim=0) + 1e-4).sqrt()).relu().mean() for z in (a, b)) / 2
    mixed = sum(((c := z.T.cov()) - c.diag().diag()).square().sum() / 7 for z in (a, b))
    expected = 3 * (a - b).square().mean() + 5 * spread + 7 * mixed
    torch.testing.assert_close(loss, expected)
