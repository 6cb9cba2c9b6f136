import pytest
import torch
from helpers.methods import BATCH, SIDE, create, draw_views, projections
from torch import nn

from sslortho.losses import SIGReg, draw_slices
from sslortho.methods.lejepa import LeJEPA
from sslortho.methods.options import LeJEPAOptions


def sum_of_terms(z, slices, share, large):
    """The loss of projections of views, as it is defined."""
    centre = sum(z[:large]) / large
    distance = sum((view - centre).square().mean() for view in z) / len(z)
    sigreg = sum(SIGReg()(view, slices) for view in z) / len(z)
    return (1 - share) * distance + share * sigreg


@pytest.mark.parametrize("step", [0, 5])
def test_lejepa_weighs_distance_and_sigreg_in_the_directions_of_the_step(step):
    views = draw_views(3)
    task = create("lejepa", lambda_param=0.3, slices=20)
    task.before_step(step=step, epoch=0, total_steps=9)
    loss = task(views, torch.zeros(BATCH))["loss"]
    z = task.projector(task.backbone(torch.cat(views))).chunk(3)  # all of one size pass together
    torch.testing.assert_close(loss, sum_of_terms(z, draw_slices(step, 7, 20), 0.3, 3))


def test_the_centre_is_that_of_the_views_of_the_first_size():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 6))
    task = LeJEPA(backbone, 6, LeJEPAOptions(projector="9-7", lambda_param=0.3, slices=20))
    large, small = (
        draw_views(2),
        tuple(view[..., : SIDE // 2, : SIDE // 2] for view in draw_views(3)),
    )
    loss = task((*large, *small), torch.zeros(BATCH))["loss"]
    z = [z for views in (large, small)
         for z in task.projector(task.backbone(torch.cat(views))).chunk(len(views))]  # fmt: skip
    torch.testing.assert_close(loss, sum_of_terms(z, draw_slices(0, 7, 20), 0.3, 2))


def test_evaluations_have_one_set_of_directions_whatever_the_step():
    views, losses = draw_views(2), []
    for step in (0, 3):
        task = create("lejepa")
        task.before_step(step=step, epoch=0, total_steps=9)
        task.eval()
        losses.append(task(views, torch.zeros(BATCH))["loss"])
    assert torch.equal(*losses)


def test_a_projector_of_ones_own_is_taken():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 6))
    task = LeJEPA(backbone, 6, LeJEPAOptions(slices=5), projector=nn.Linear(6, 3))
    views = draw_views(2)
    z = projections(task, views)
    loss = task(views, torch.zeros(BATCH))["loss"]
    torch.testing.assert_close(loss, sum_of_terms(z, draw_slices(0, 3, 5), 0.05, 2))
