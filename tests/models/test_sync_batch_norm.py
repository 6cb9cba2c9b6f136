import pytest
import timm.layers
import torch
import torch.distributed as dist
from helpers.ranks import run_on_ranks
from torch import nn

from sslortho.models import SyncBatchNorm, convert_sync_batch_norm

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CHANNELS = 3
STEPS = 2
SIZES = {"equal": (4, 4), "unequal": (5, 2), "one sample": (1, 6), "three ranks": (2, 1, 4)}
KINDS = {
    (): nn.BatchNorm1d,
    (5,): nn.BatchNorm1d,
    (4, 5): nn.BatchNorm2d,
}


def draw(sizes: tuple[int, ...], tail: tuple[int, ...], step: int) -> tuple[torch.Tensor, ...]:
    """Inputs and the gradient of their outputs, (sum of sizes, CHANNELS, *tail)."""
    generator = torch.Generator().manual_seed(step)
    shape = (2, sum(sizes), CHANNELS, *tail)
    inputs, gradients = torch.randn(shape, generator=generator, dtype=torch.float64)
    return 3 * inputs + 10, gradients


def perturb(module: nn.Module) -> nn.Module:
    """Affine parameters other than one and zero."""
    for i, parameter in enumerate(module.parameters()):
        with torch.no_grad():
            parameter.copy_(torch.arange(CHANNELS) + 0.5 + i)
    return module.double()


def train_and_evaluate(module: nn.Module, batches, evaluation: torch.Tensor) -> dict:
    """Outputs and input gradients of each batch, parameter gradients, buffers, evaluation output."""
    outputs, gradients = [], []
    for inputs, output_gradients in batches:
        inputs = inputs.clone().requires_grad_()
        output = module(inputs)
        output.backward(output_gradients)
        outputs.append(output.detach())
        gradients.append(inputs.grad)
    module.eval()
    return {
        "outputs": outputs,
        "input gradients": gradients,
        "parameter gradients": [parameter.grad for parameter in module.parameters()],
        "buffers": dict(module.named_buffers()),
        "evaluation": module(evaluation).detach(),
    }


def train_on_rank(rank: int, sizes, tail, options) -> dict:
    module = perturb(SyncBatchNorm(CHANNELS, **options))
    start = sum(sizes[:rank])
    batches = [
        [tensor[start : start + sizes[rank]] for tensor in draw(sizes, tail, step)]
        for step in range(STEPS)
    ]
    return train_and_evaluate(module, batches, draw(sizes, tail, STEPS)[0])


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("sizes", "tail", "options"),
    [
        ("equal", (), {}),
        ("unequal", (), {}),
        ("unequal", (4, 5), {}),
        ("one sample", (), {"momentum": None}),
        ("one sample", (5,), {"affine": False}),
        ("three ranks", (4, 5), {"momentum": 0.3, "eps": 0.1}),
        ("unequal", (), {"track_running_stats": False}),
    ],
    ids=str,
)
def test_ranks_together_are_torchs_batch_norm_of_the_whole_batch(sizes, tail, options, tmp_path):
    sizes = SIZES[sizes]
    ranks = run_on_ranks(train_on_rank, len(sizes), tmp_path, sizes, tail, options)
    alone = perturb(KINDS[tail](CHANNELS, **options))
    batches = [draw(sizes, tail, step) for step in range(STEPS)]
    expected = train_and_evaluate(alone, batches, draw(sizes, tail, STEPS)[0])

    for key in ("outputs", "input gradients"):
        together = [torch.cat(parts) for parts in zip(*(rank[key] for rank in ranks), strict=True)]
        torch.testing.assert_close(together, expected[key])
    parts = zip(*(rank["parameter gradients"] for rank in ranks), strict=True)
    torch.testing.assert_close([sum(part) for part in parts], expected["parameter gradients"])
    for rank in ranks:
        torch.testing.assert_close(rank["buffers"], expected["buffers"])
        torch.testing.assert_close(rank["evaluation"], expected["evaluation"])


def half_precision_on_rank(rank: int) -> torch.Tensor:
    module = SyncBatchNorm(CHANNELS)
    return module(draw((4, 4), (), 0)[0][4 * rank : 4 * rank + 4].bfloat16()).detach()


@pytest.mark.ranks
def test_half_precision_is_computed_in_float32(tmp_path):
    together = torch.cat(run_on_ranks(half_precision_on_rank, 2, tmp_path))
    expected = nn.BatchNorm1d(CHANNELS)(draw((4, 4), (), 0)[0].bfloat16().float()).bfloat16()
    assert together.dtype == torch.bfloat16
    torch.testing.assert_close(together, expected)


@pytest.mark.parametrize("tail", list(KINDS), ids=str)
def test_one_rank_is_torchs_batch_norm(tail):
    assert not dist.is_initialized()
    batches = [draw((8,), tail, step) for step in range(STEPS)]
    ours, theirs = (
        train_and_evaluate(perturb(cls(CHANNELS)), batches, batches[0][0])
        for cls in (SyncBatchNorm, KINDS[tail])
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_input_without_channels_is_refused():
    with pytest.raises(ValueError, match=r"\(batch, channels, ...\), got \(3,\)"):
        SyncBatchNorm(CHANNELS)(torch.zeros(CHANNELS))


def model_with_norms() -> nn.Module:
    inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=0.1, momentum=0.3), nn.ReLU())
    head = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.BatchNorm1d(6, affine=False))
    return nn.Sequential(inner, nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), head)


def test_convert_keeps_parameters_buffers_and_names():
    model = model_with_norms()
    model[0][1].weight.requires_grad_(False)
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    keys = list(model.state_dict())
    converted = convert_sync_batch_norm(model, CPU)
    assert converted is model
    assert [type(m) for m in (model[0][1], model[3][2])] == [SyncBatchNorm, SyncBatchNorm]
    assert [type(m) for m in (model[1], model[2])] == [nn.GroupNorm, nn.InstanceNorm2d]
    assert list(model.state_dict()) == keys
    # the very tensors: an optimizer may hold them already
    for kept, now in ((parameters, model.named_parameters()), (buffers, model.named_buffers())):
        now = dict(now)
        assert now.keys() == kept.keys()
        assert all(now[name] is kept[name] for name in kept)
    assert not model[0][1].weight.requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_convert_does_not_change_what_one_rank_computes(training):
    images = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    plain = model_with_norms().train(training)
    torch.manual_seed(0)
    converted = convert_sync_batch_norm(model_with_norms().train(training), CPU)
    assert all(module.training == training for module in converted.modules())
    for _ in range(2):
        torch.testing.assert_close(converted(images), plain(images), rtol=0, atol=0)
    torch.testing.assert_close(converted.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_convert_returns_a_batch_norm_that_is_the_module_itself():
    norm = nn.BatchNorm2d(4)
    converted = convert_sync_batch_norm(norm, CPU)
    assert type(converted) is SyncBatchNorm
    assert converted.weight is norm.weight
    assert convert_sync_batch_norm(converted, CPU) is converted


def test_convert_takes_torchs_on_cuda():
    converted = convert_sync_batch_norm(model_with_norms(), CUDA)
    assert type(converted[0][1]) is nn.SyncBatchNorm
    assert type(converted[3][2]) is nn.SyncBatchNorm


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_convert_keeps_the_activation_of_timms_fused_norms(device):
    """timm's BatchNormAct2d, a batch norm followed by a ReLU, is in most of its networks."""
    images = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(timm.layers.BatchNormAct2d(4)).eval()
    expected = model(images)
    assert expected.min() == 0
    torch.testing.assert_close(convert_sync_batch_norm(model, device)(images), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_running_statistics_of_half_precision_are_averaged_in_float32(dtype):
    """A step of a hundredth of the difference, each rounded once."""
    module = SyncBatchNorm(CHANNELS, momentum=0.01).to(dtype)
    mean, variance = torch.tensor([[1.0, 2.5, -300.7], [2.0, 0.3, 7.1]])
    total = torch.tensor(8.0)
    for _ in range(5):
        exact = [
            torch.lerp(running.double(), value.double(), 0.01).to(dtype)
            for running, value in (
                (module.running_mean, mean),
                (module.running_var, variance * 8 / 7),
            )
        ]
        module._update_running_statistics(mean, variance, total)
        assert torch.equal(module.running_mean, exact[0])
        assert torch.equal(module.running_var, exact[1])
