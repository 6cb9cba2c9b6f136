import pytest
import torch
from torch import nn

from sslortho.train.skipping import Arriving, KeptBuffers


class Centre(nn.Module):
    """Buffers of three kinds; one is replaced by each forward, as DINO's centre is."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.register_buffer("centre", torch.zeros(4))
        self.register_buffer("float16", torch.ones(2, dtype=torch.float16))
        self.register_buffer("maps", torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last))

    def forward(self, x):
        self.norm(x)
        self.centre = self.centre + 1
        self.maps.add_(1)


def test_buffers_are_restored_to_the_bit_step_after_step():
    module = Centre()
    kept = KeptBuffers(module)
    for step in range(3):
        before = {name: b.clone() for name, b in module.named_buffers()}
        kept.keep()
        memory = [copy.data_ptr() for copy in kept.copies]
        module(torch.randn(5, 3, 2, 2) * 10**step)
        assert not torch.equal(module.centre, before["centre"])
        if step < 2:
            kept.restore()
            for name, buffer in module.named_buffers():
                assert torch.equal(buffer, before[name])
                assert buffer.stride() == before[name].stride()
        kept.keep()
        assert [copy.data_ptr() for copy in kept.copies] == memory  # reused
    assert all(c.data_ptr() != b.data_ptr() for c, b in zip(kept.copies, module.buffers()))  # noqa: B905


def test_buffers_that_change_their_kind_are_kept_too():
    module = Centre()
    kept = KeptBuffers(module)
    kept.keep()
    module.centre = torch.ones(7)
    module.register_buffer("new", torch.zeros(1))
    kept.keep()
    module.centre.zero_()
    kept.restore()
    assert torch.equal(module.centre, torch.ones(7))


@pytest.mark.parametrize("value", [1.5, float("inf"), float("nan")])
def test_a_number_arrives_as_it_was_sent(value):
    torch.testing.assert_close(
        Arriving(torch.tensor(value)).read(), value, rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.gpu
def test_a_number_of_a_gpu_does_not_wait_for_what_is_queued_after_it():
    value = torch.full((), 2.5, device="cuda")
    matrix = torch.randn(8192, 8192, device="cuda")
    torch.cuda.synchronize()
    number = Arriving(value)
    later = torch.cuda.Event()
    for _ in range(50):
        matrix = matrix @ matrix / 100
    later.record()
    assert number.read() == 2.5
    assert not later.query()
