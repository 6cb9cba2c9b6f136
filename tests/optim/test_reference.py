"""The optimizers step as the one-page reference of the paper's algorithm does."""

import pytest
import torch
from helpers.matrices import nearest_orthonormal, well_conditioned, with_singular_values
from torch import nn
from torch.nn.utils import parametrizations

from sslortho.optim import (
    LARS,
    OrthAdam,
    OrthAdamW,
    OrthLARS,
    OrthSGD,
    param_groups,
    polar,
    reference,
)
from sslortho.optim.polar_factor import LOWER_BOUND, TOLERANCE

EXACT = ("auto", "svd", "gram_eigh")
ITERATIVE = ("polar_express", "newton_schulz")
STEPS = 4
LR = 0.05


class Attention(nn.Module):
    """Self-attention in the form of timm's: q, k and v in one dense layer, then an output layer."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Everything(nn.Module):
    """A layer of each kind that is orthonormalised, or is left raw."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 3, bias=False)
        self.batch_norm = nn.BatchNorm2d(6)
        self.grouped = nn.Conv2d(6, 12, 3, groups=3)
        self.depthwise = nn.Conv2d(12, 12, 3, groups=12, padding=1)
        self.transposed = nn.ConvTranspose2d(12, 8, 2, groups=2)
        self.scale = nn.Parameter(torch.full((8, 1, 1), 0.5))
        self.classes = nn.Embedding(4, 8)
        self.positions = nn.Parameter(0.1 * torch.randn(1, 9, 8))
        self.torchs = nn.MultiheadAttention(8, 2, batch_first=True)
        self.layer_norm = nn.LayerNorm(8)
        self.timms = Attention(8, 4)
        self.head = nn.Linear(8, 5)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.batch_norm(self.convolution(images)))
        x = self.depthwise(torch.tanh(self.grouped(x)))
        x = self.scale * self.transposed(x)
        x = x.flatten(2).mT + self.positions + self.classes(labels)[:, None]
        x = x + self.torchs(x, x, x, need_weights=False)[0]
        x = x + self.timms(self.layer_norm(x))
        return self.head(x)


@pytest.fixture(autouse=True)
def one_thread(set_threads):
    """Threads only slow so small a model down."""
    set_threads(1)


def make_model(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return Everything().to(dtype)


def compute_gradients(model: nn.Module, step: int) -> None:
    """Gradients of a regression plus a random linear function, which lifts all directions above noise."""
    generator = torch.Generator().manual_seed(step)

    def draw(*shape: int) -> torch.Tensor:
        numbers = torch.randn(shape, generator=generator, dtype=torch.float64)
        return numbers.to(next(model.parameters()).dtype)

    outputs = model(draw(32, 3, 6, 6), torch.arange(32) % 4)
    loss = (outputs - draw(*outputs.shape)).square().mean()
    model.zero_grad()
    (loss + sum(0.1 * (draw(*p.shape) * p).sum() for p in model.parameters())).backward()


def train_by_reference(rule, orth, heads, dtype=torch.float64, **options) -> nn.Module:
    model, state = make_model(dtype), {}
    roles = reference.assign_roles(model, orth, heads)
    for step in range(STEPS):
        compute_gradients(model, step)
        reference.take_step(model, roles, state, rule, lr=LR, **options)
    return model


def train(cls, orth, heads, dtype=torch.float64, **options) -> nn.Module:
    model = make_model(dtype)
    attention = "heads" if heads else "whole"
    optimizer = cls(param_groups(model, orth, attention=attention), lr=LR, **options)
    for step in range(STEPS):
        compute_gradients(model, step)
        optimizer.step()
    return model


def assert_same_parameters(actual: nn.Module, expected: nn.Module, rtol: float, atol: float):
    untrained = dict(make_model().named_parameters())
    for (name, p), q in zip(actual.named_parameters(), expected.parameters(), strict=True):
        assert not torch.equal(q.double(), untrained[name]), name
        torch.testing.assert_close(
            p.double(),
            q.double(),
            rtol=rtol,
            atol=atol,
            msg=lambda text, name=name: f"{name}: {text}",
        )


CASES = [
    (OrthSGD, reference.sgd_step, {"momentum": 0.9}, {}),
    (OrthSGD, reference.sgd_step, {"momentum": 0.0, "weight_decay": 0.1}, {}),
    (OrthAdam, reference.adam_step, {"weight_decay": 0.1}, {}),
    (OrthAdam, reference.adam_step, {"betas": (0.5, 0.9), "eps": 1e-3}, {}),
    (OrthAdamW, reference.adam_step, {"weight_decay": 0.1}, {"decoupled": True}),
    (OrthLARS, reference.lars_step, {"weight_decay": 0.1, "trust_coefficient": 0.1}, {}),
    (OrthLARS, reference.lars_step, {"momentum": 0.5}, {}),
]
LAYERS = [("all", True), ("all", False), ("conv", False)]


def roles_of_groups(model, orth, heads):
    found = {}
    for group in param_groups(model, orth, attention="heads" if heads else "whole"):
        matrices = group["orth_components"] if group["orth"] else 0
        exempt = group["trust_coefficient"] is None if "trust_coefficient" in group else False
        for name in group["names"]:
            found[name] = reference.Role(matrices, group["orth_view"], exempt)
    return found


@pytest.mark.parametrize(("orth", "heads"), LAYERS)
def test_roles_are_those_of_the_parameter_groups(orth, heads):
    model = make_model()
    found = roles_of_groups(model, orth, heads)
    assert reference.assign_roles(model, orth, heads) == found
    views = {role.view for role in found.values()}
    assert views == {"rows", "transposed"} | ({"columns"} if heads else set())


@pytest.mark.parametrize("orth", ["all", "conv"])
def test_roles_of_parametrised_and_shared_weights(orth):
    head, table = nn.Linear(4, 10, bias=False), nn.Embedding(10, 4)
    head.weight = table.weight
    model = nn.Sequential(
        head,
        table,
        parametrizations.spectral_norm(nn.Conv2d(4, 4, 3, groups=4)),
        parametrizations.weight_norm(nn.ConvTranspose2d(4, 6, 3, groups=2)),
        parametrizations.weight_norm(nn.Linear(4, 3)),
    )
    roles = reference.assign_roles(model, orth)
    shared = roles.pop("1.weight")  # the groups have the first name alone
    assert shared == reference.Role()
    assert roles == roles_of_groups(model, orth, heads=False)
    assert roles["2.parametrizations.weight.original"] == reference.Role(4)
    assert roles["3.parametrizations.weight.original0"] == reference.Role(exempt=True)
    assert roles["3.parametrizations.weight.original1"] == reference.Role(2, "transposed")


@pytest.mark.slow
@pytest.mark.parametrize(("orth", "heads"), LAYERS)
@pytest.mark.parametrize(("cls", "rule", "options", "more"), CASES)
def test_optimizers_step_as_the_reference(cls, rule, options, more, orth, heads):
    """In float64, where "auto" is the SVD."""
    expected = train_by_reference(rule, orth, heads, **options, **more)
    for foreach in (True, False):
        ours = train(cls, orth, heads, foreach=foreach, **options)
        assert_same_parameters(ours, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("polar", ["svd", "gram_eigh"])
@pytest.mark.parametrize(("cls", "rule", "options", "more"), CASES)
def test_exact_methods_step_as_the_reference(cls, rule, options, more, polar):
    """A Gram matrix squares the condition number, which costs gram_eigh some digits."""
    expected = train_by_reference(rule, "all", True, **options, **more)
    atol = 1e-11 if polar == "svd" else 1e-10
    assert_same_parameters(train(cls, "all", True, polar=polar, **options), expected, 1e-9, atol)


SMOOTH = [case for case in CASES if case[0] in (OrthSGD, OrthLARS)]
"""Adam divides by the size of each entry, and so magnifies the error of a small one without bound."""


@pytest.mark.parametrize("polar", ITERATIVE)
@pytest.mark.parametrize(("cls", "rule", "options", "more"), SMOOTH)
def test_iterative_methods_step_as_the_reference(cls, rule, options, more, polar):
    """Up to their tolerance for each step, with room for the gradients that follow from the steps."""
    expected = train_by_reference(rule, "all", True, **options, **more)
    ours = train(cls, "all", True, polar=polar, **options)
    assert_same_parameters(ours, expected, rtol=0, atol=5 * STEPS * LR * TOLERANCE)
    pairs = zip(ours.parameters(), expected.parameters(), strict=True)
    assert any(not torch.equal(p, q) for p, q in pairs)


def test_all_directions_of_these_gradients_are_above_the_lower_bound():
    """The premise of the test before: below it the iterative methods promise nothing."""
    model = make_model()
    roles = reference.assign_roles(model, "all", heads=True)
    for step in range(STEPS):
        compute_gradients(model, step)
        for name, p in model.named_parameters():
            if roles[name].matrices:
                for block in reference.split_matrices(p.grad, roles[name]):
                    values = torch.linalg.svdvals(block.flatten(1))
                    assert values[-1] > LOWER_BOUND * values[0], name


@pytest.mark.parametrize("polar", EXACT)
@pytest.mark.parametrize(("cls", "rule", "options", "more"), SMOOTH)
def test_float32_stays_near_the_reference_in_float64(cls, rule, options, more, polar):
    expected = train_by_reference(rule, "all", True, **options, **more)
    ours = train(cls, "all", True, torch.float32, polar=polar, **options)
    assert_same_parameters(ours, expected, rtol=1e-4, atol=2e-5)


def test_lars_is_the_same_step_on_raw_gradients():
    options = {"weight_decay": 0.1, "trust_coefficient": 0.1}
    ours = train(LARS, "none", False, **options)
    model, state = make_model(), {}
    roles = reference.assign_roles(model)
    raw = {name: role._replace(matrices=0) for name, role in roles.items()}
    for step in range(STEPS):
        compute_gradients(model, step)
        reference.take_step(model, raw, state, reference.lars_step, lr=LR, **options)
    assert_same_parameters(ours, model, rtol=1e-10, atol=1e-12)


def test_the_norms_of_lars_may_be_zero():
    """The ratio is then the trust coefficient."""
    for weight, gradient in ((torch.zeros(2, 3), torch.ones(2, 3)), (torch.ones(2, 3), None)):
        models = [nn.Linear(3, 2, bias=False) for _ in range(2)]
        for model in models:
            model.weight.data = weight.clone()
            model.weight.grad = torch.zeros(2, 3) if gradient is None else gradient.clone()
        OrthLARS(models[0].parameters(), lr=0.1).step()
        roles = reference.assign_roles(models[1])
        reference.take_step(models[1], roles, {}, reference.lars_step, lr=0.1)
        torch.testing.assert_close(models[0].weight, models[1].weight)


MATRICES = {
    "wide": well_conditioned(4, 9),
    "tall": well_conditioned(9, 4),
    "square": well_conditioned(5, 5),
    "one row": well_conditioned(1, 6),
    "deficient": with_singular_values(5, 8, [1, 0.5, 0.1, 0, 0]),
    "tall and deficient": with_singular_values(8, 5, [3, 2, 0, 0, 0]),
    "tiny": 1e-300 * well_conditioned(4, 6),
    "huge": 1e300 * well_conditioned(4, 6),
}


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
def test_polar_factor_of_numpy_of_the_reference_and_of_ours(matrix):
    factor = reference.nearest_orthonormal(matrix)
    scaled = matrix / matrix.abs().max()
    torch.testing.assert_close(factor, nearest_orthonormal(scaled, 1e-10), rtol=0, atol=1e-12)
    for method, atol in (("svd", 1e-12), ("gram_eigh", 1e-6)):
        torch.testing.assert_close(polar(matrix, method), factor, rtol=0, atol=atol)


@pytest.mark.parametrize("rank_tol", [0.0, 0.3])
def test_rank_tol_is_that_of_ours(rank_tol):
    matrix = with_singular_values(5, 8, [1, 0.5, 0.1, 1e-3, 1e-18])
    factor = reference.nearest_orthonormal(matrix, rank_tol)
    torch.testing.assert_close(polar(matrix, "svd", rank_tol=rank_tol), factor, rtol=0, atol=1e-12)
    assert torch.linalg.matrix_rank(factor) == (5 if rank_tol == 0 else 2)


def test_zero_stays_zero_and_nan_spreads_over_its_own_matrix():
    gradient = well_conditioned(9, 4)
    gradient[0, 1] = torch.nan
    gradient[3:6] = 0
    result = reference.orthonormalise(gradient, reference.Role(3))
    assert result[:3].isnan().all()
    assert not result[3:6].any()
    torch.testing.assert_close(result[6:], nearest_orthonormal(gradient[6:]))
    torch.testing.assert_close(polar(gradient.view(3, 3, 4)).flatten(0, 1), result, equal_nan=True)


def test_gradients_are_left_as_they_are():
    model = make_model()
    compute_gradients(model, 0)
    before = [p.grad.clone() for p in model.parameters()]
    reference.take_step(model, reference.assign_roles(model), {}, reference.sgd_step, lr=LR)
    for p, gradient in zip(model.parameters(), before, strict=True):
        assert torch.equal(p.grad, gradient)
