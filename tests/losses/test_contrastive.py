"""NT-Xent and VICReg beside lightly's classes, of which they keep the bits."""

import warnings

import pytest
import torch
from helpers.ranks import run_on_ranks
from torch.overrides import TorchFunctionMode

from sslortho.losses import NTXentLoss, VICRegLoss
from sslortho.losses.off_diagonal import off_diagonal

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # other people's, while they are imported
    import lightly.loss

PAIRS = {
    "ntxent": (
        lambda: NTXentLoss(0.3, gather_distributed=True),
        lambda: lightly.loss.NTXentLoss(0.3, gather_distributed=True),
    ),
    "vicreg": (
        lambda: VICRegLoss(3.0, 2.0, 0.5, gather_distributed=True),
        lambda: lightly.loss.VICRegLoss(3.0, 2.0, 0.5, gather_distributed=True),
    ),
}


def draw(batch=32, dim=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, batch, dim, generator=generator).unbind()


def value_and_gradients(loss, z_a, z_b):
    z_a, z_b = (z.clone().requires_grad_() for z in (z_a, z_b))
    value = loss(z_a, z_b)
    value.backward()
    return torch.stack([value.detach().expand_as(z_a), z_a.grad, z_b.grad])


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("shape", [(2, 3), (32, 24), (128, 64), (7, 129)])
def test_the_bits_are_those_of_lightly(name, shape):
    ours, theirs = (make() for make in PAIRS[name])
    z = draw(*shape)
    assert torch.equal(value_and_gradients(ours, *z), value_and_gradients(theirs, *z))


def on_rank(rank, name, whose, size=16):
    torch.set_num_threads(1)
    share = [z[size * rank : size * (rank + 1)] for z in draw(2 * size)]
    return value_and_gradients(PAIRS[name][whose](), *share)


@pytest.mark.ranks
@pytest.mark.parametrize("name", PAIRS)
def test_a_sample_on_each_rank_is_a_batch_of_two(name, tmp_path):
    ranks = run_on_ranks(on_rank, 2, tmp_path, name, 0, 1)
    mean = torch.cat([rank[1:] for rank in ranks], dim=1) / 2
    whole = value_and_gradients(PAIRS[name][0](), *draw(2))
    torch.testing.assert_close(mean, whole[1:], rtol=1e-5, atol=1e-7)


@pytest.mark.ranks
@pytest.mark.parametrize("name", PAIRS)
def test_two_ranks_have_the_bits_of_lightly_and_the_gradient_of_one(name, tmp_path):
    folders = [tmp_path / whose for whose in ("ours", "theirs")]
    found = []
    for whose, folder in enumerate(folders):
        folder.mkdir()
        found.append(run_on_ranks(on_rank, 2, folder, name, whose))
    ours, theirs = found
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    whole = value_and_gradients(PAIRS[name][0](), *draw())
    mean = torch.cat([rank[1:] for rank in ours], dim=1) / 2  # as DistributedDataParallel's
    torch.testing.assert_close(mean, whole[1:], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("shape", "start"), [((4, 4), 0), ((3, 9), 3), ((3, 9), 6), ((1, 1), 0)])
def test_off_diagonal_is_what_a_mask_leaves(shape, start):
    matrix = torch.arange(shape[0] * shape[1]).view(shape)
    mask = torch.ones(shape, dtype=torch.bool)
    mask[torch.arange(shape[0]), start + torch.arange(shape[0])] = False
    assert torch.equal(off_diagonal(matrix, start), matrix[mask].view(shape[0], -1))


class Waits(TorchFunctionMode):
    """Refuse what makes a GPU wait for the host."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        assert name not in ("nonzero", "item", "__bool__", "tolist", "__int__", "__float__"), name
        if name == "__getitem__":
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            assert not any(getattr(i, "dtype", None) is torch.bool for i in index), "mask"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", PAIRS)
def test_no_step_waits_for_the_host(name):
    ours, theirs = (make() for make in PAIRS[name])
    z = draw()
    with pytest.raises(AssertionError), Waits():  # the mode sees lightly's masks
        theirs(*z)
    with Waits():
        value_and_gradients(ours, *z)


def test_wrong_values():
    with pytest.raises(ValueError, match="temperature=0 must be above 0"):
        NTXentLoss(0)
    with pytest.raises(ValueError, match="batch of 1 has no variance; give at least 2 samples"):
        VICRegLoss()(*draw(batch=1))


def test_no_index_as_large_as_the_matrix_is_kept_for_the_gradient():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        VICRegLoss()(torch.randn(6, 9, requires_grad=True), torch.randn(6, 9, requires_grad=True))
    assert kept
    assert not any(tensor.dtype == torch.int64 and tensor.numel() > 9 for tensor in kept)
