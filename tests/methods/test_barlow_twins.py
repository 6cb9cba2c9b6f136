import torch
from torch import nn

from sslortho.losses import BarlowTwinsLoss
from sslortho.methods.barlow_twins import BarlowTwins, BarlowTwinsOptions


def test_views_pass_separately_and_the_loss_is_made_of_its_terms():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5))
    task = BarlowTwins(backbone, 5, BarlowTwinsOptions(projector="4", lambda_param=0.1))
    views = torch.randn(16, 3, 2, 2), 3 + torch.randn(16, 3, 2, 2)
    metrics = task(views, torch.zeros(16))

    def project(view):
        linear = view.flatten(1) @ backbone[1].weight.T + backbone[1].bias
        normal = (linear - linear.mean(0)) / (linear.var(0, correction=0) + 1e-5).sqrt()
        return normal @ task.projector[0].weight.T

    expected = BarlowTwinsLoss(0.1)(project(views[0]), project(views[1]))
    torch.testing.assert_close(metrics["loss"], expected)
    torch.testing.assert_close(
        metrics["invariance"] + 0.1 * metrics["redundancy"], metrics["loss"].detach()
    )
    assert metrics["loss"].requires_grad
    assert not metrics["invariance"].requires_grad
    # two passes, two updates of the running statistics
    assert int(backbone[2].num_batches_tracked) == 2
