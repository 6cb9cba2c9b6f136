"""The next batch in the queue before the host waits for this step's gradients."""

import pytest
import torch
from helpers.linear_training import Loader, train, weights

from sslortho.train.batches_ahead import BatchesAhead


def test_no_batch_is_asked_for_without_need():
    asked = []

    def batches():
        for number in range(9):
            asked.append(number)
            yield number

    ahead = BatchesAhead(batches(), number=5, ahead=True)
    assert list(ahead.take(2)) == [0, 1]
    ahead.prepare()
    ahead.prepare()
    assert asked == [0, 1, 2]
    assert list(ahead.take(2)) == [2, 3]
    assert list(ahead.take(1)) == [4]
    ahead.prepare()  # the epoch's last step has none after it
    assert asked == [0, 1, 2, 3, 4]


def test_on_a_cpu_each_batch_is_made_when_it_is_needed():
    asked = []
    ahead = BatchesAhead((asked.append(n) or n for n in range(9)), number=5, ahead=False)
    ahead.prepare()
    assert asked == []
    assert list(ahead.take(1)) == [0]


@pytest.mark.parametrize("ahead", [True, False])
def test_a_loader_shorter_than_it_says_is_an_error(ahead):
    batches = BatchesAhead(iter([1, 2]), number=3, ahead=ahead)
    assert list(batches.take(2)) == [1, 2]
    ask = batches.prepare if ahead else lambda: list(batches.take(1))
    with pytest.raises(ValueError, match="the loader ended after 2 of the 3 batches"):
        ask()


class Noting(Loader):
    """Notes each batch that it makes."""

    def __init__(self, events):
        super().__init__()
        self.events = events

    def __iter__(self):
        for batch in super().__iter__():
            self.events.append("batch")
            yield batch


@pytest.mark.parametrize("parts", [1, 2])
def test_the_next_batch_is_made_before_the_step_and_no_bit_changes(tmp_path, parts):
    events = []

    def make_ahead(trainer):
        trainer.ahead = True
        step = trainer.optimizer.step

        def noting_step(*arguments):
            events.append("step")
            return step(*arguments)

        trainer.optimizer.step = noting_step

    options = {"dropout": 0.5, "accumulation_steps": parts, "epochs": 2}
    ahead, _ = train(tmp_path / "ahead", Noting(events), prepare=make_ahead, **options)
    plain, _ = train(tmp_path / "plain", **options)
    assert torch.equal(weights(ahead), weights(plain))
    middle = ["step"] + ["batch"] * (parts - 1)  # after a step, what is left of the next one's
    epoch = ["batch"] * parts + ["batch", *middle] * (6 // parts - 1) + ["step"]
    assert events == epoch * 2
