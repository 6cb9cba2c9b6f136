import math

import torch
from helpers.methods import BATCH, draw_views, loss_of, projections
from torch.nn.functional import cross_entropy, normalize


def test_simclr_tells_each_view_from_all_others_of_the_batch():
    views = draw_views()
    task, loss = loss_of("simclr", views, temperature=0.3)
    z = normalize(torch.cat(projections(task, views)), dim=1)
    logits = (z @ z.T / 0.3).fill_diagonal_(-math.inf)
    partner = torch.arange(2 * BATCH).roll(BATCH)
    torch.testing.assert_close(loss, cross_entropy(logits, partner))
