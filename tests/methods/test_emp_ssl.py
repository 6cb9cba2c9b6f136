import torch
from helpers.methods import BATCH, create, draw_views

from sslortho.losses.emp_ssl import coding_rate_reference


def test_emp_ssl_weighs_the_cosines_with_the_mean_and_the_coding_rate():
    views = draw_views(5)
    task = create("emp_ssl", similarity=3.0, coding_rate=0.7, eps=0.5)
    found = task(views, torch.zeros(BATCH))
    z = task.projector(task.backbone(torch.cat(views))).chunk(5)  # all crops pass together
    unit = [view / view.norm(dim=1, keepdim=True) for view in z]
    mean = sum(unit) / 5
    cosine = sum((view * mean).sum(dim=1).div(mean.norm(dim=1)).mean() for view in unit) / 5
    rate = sum(coding_rate_reference(view, 0.5) for view in unit) / 5
    torch.testing.assert_close(found["loss"], -3 * cosine - 0.7 * rate)
    torch.testing.assert_close(found["cosine"], cosine)
    torch.testing.assert_close(found["coding_rate"], rate)
