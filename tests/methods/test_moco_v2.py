import warnings

import pytest
import torch
from helpers.methods import BATCH, create, draw_views
from torch.nn.functional import cross_entropy, normalize

from sslortho.methods.moco_v2 import QueueLoss


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


def train_queue(loss, steps, seed=0, batch=6):
    """Losses, gradients and the queue of some steps."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(steps):
        query, key = torch.randn(2, batch, 5, generator=generator).unbind()
        query.requires_grad_()
        value = loss(query, key)
        value.backward()
        found += [value.detach(), query.grad]
    return [*found, loss.memory_bank.bank, loss.memory_bank.bank_ptr]


@pytest.mark.parametrize("batch", [6, 8, 16, 20])
def test_the_queue_has_the_bits_of_lightly(batch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's, while they are imported
        from lightly.loss import NTXentLoss
    torch.manual_seed(4)
    theirs = NTXentLoss(0.2, (16, 5), gather_distributed=True)
    torch.manual_seed(4)
    ours = QueueLoss(0.2, 16, 5)
    for mine, reference in zip(
        train_queue(ours, 5, batch=batch), train_queue(theirs, 5, batch=batch), strict=True
    ):
        assert torch.equal(mine, reference)


def test_a_loaded_queue_goes_on_at_its_place():
    torch.manual_seed(4)
    first, second = QueueLoss(0.2, 16, 5), QueueLoss(0.2, 16, 5)
    train_queue(second, 1, seed=9)
    train_queue(first, 2)
    second.load_state_dict(first.state_dict())
    for one, other in zip(train_queue(first, 2, 1), train_queue(second, 2, 1), strict=True):
        assert torch.equal(one, other)
