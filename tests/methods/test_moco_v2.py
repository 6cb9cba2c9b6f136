import torch
from helpers.methods import BATCH, create, draw_views
from torch.nn.functional import cross_entropy, normalize


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
