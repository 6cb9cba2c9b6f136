import itertools

import pytest
import torch
from helpers.matrices import nearest_orthonormal, well_conditioned

from sslortho.optim import polar
from sslortho.optim.polar_factor import Matrices
from sslortho.optim.polar_factor.costs import H200, Machine, _products, estimate
from sslortho.optim.polar_factor.fast_path import FP16X3
from sslortho.optim.polar_factor.fused_iteration import iterate_fused
from sslortho.optim.polar_factor.iterative import express_schedule
from sslortho.optim.polar_factor.padding import (
    PADDED,
    common_sides,
    join_shapes,
    launches_matter,
    plan,
    stack_padded,
)
from sslortho.optim.polar_factor.products import multiply
from sslortho.optim.polar_factor.stacks import _solve_together

LIMIT = 2**26
RESNET18 = (
    *[((64, 147), 1), ((64, 576), 4), ((128, 576), 1), ((128, 1152), 3), ((64, 128), 1)],
    *[((256, 1152), 1), ((256, 2304), 3), ((128, 256), 1), ((512, 2304), 1), ((512, 4608), 3)],
    ((256, 512), 1),
)
"""Convolutions of a ResNet-18: (rows, columns) of the wide matrices, and how many."""


def seconds(method, groups, numbers) -> float:
    return sum(
        estimate(method, sum(numbers[s] for s in group), *common_sides(group)).seconds
        for group in groups
    )


@pytest.mark.parametrize("method", PADDED)
def test_a_padded_matrix_has_the_padded_factor(method):
    stacks = [
        well_conditioned(2, 5, 9),
        well_conditioned(1, 8, 20, seed=1),
        well_conditioned(3, 3, 30),
    ]
    stacks = [stack.float() for stack in stacks]
    factors = polar(stack_padded(stacks), method).split([2, 1, 3])
    for stack, factor in zip(stacks, factors, strict=True):
        _, rows, columns = stack.shape
        assert not factor[:, rows:].any()
        assert not factor[:, :, columns:].any()
        allowed = 2e-2 if method == "muon_bf16" else 2e-3
        alone = polar(stack, method)
        torch.testing.assert_close(factor[:, :rows, :columns], alone, rtol=0, atol=allowed)


def test_of_one_shape_nothing_is_padded():
    stacks = [torch.randn(2, 3, 4), torch.randn(1, 3, 4)]
    assert torch.equal(stack_padded(stacks), torch.cat(stacks))
    assert stack_padded(stacks[:1]) is stacks[0]


def test_results_of_padded_matrices_go_where_they_belong():
    shapes = [(2, 5, 9), (1, 20, 8), (1, 9, 5)]
    parts = []
    for i, shape in enumerate(shapes):
        stack = well_conditioned(*shape, seed=i).float()
        parts.append(Matrices(stack, torch.zeros_like(stack), FP16X3))
    _solve_together(parts, FP16X3)
    for part in parts:
        expected = nearest_orthonormal(part.stack)
        torch.testing.assert_close(part.out.double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", PADDED)
def test_a_plan_holds_every_shape_once_and_costs_no_more(method):
    groups = plan(method, RESNET18, LIMIT)
    assert sorted(itertools.chain(*groups)) == sorted(shape for shape, _ in RESNET18)
    numbers = dict(RESNET18)
    alone = [[shape] for shape in numbers]
    assert seconds(method, groups, numbers) < seconds(method, alone, numbers)
    for one, other in itertools.combinations(groups, 2):  # no pair is left that would save time
        rest = [group for group in groups if group not in (one, other)]
        assert seconds(method, [*rest, one + other], numbers) >= seconds(method, groups, numbers)


def test_large_matrices_are_left_alone_and_small_ones_joined():
    large = (((2048, 8192), 2), ((2048, 2304), 2))
    assert len(plan("polar_express", large, LIMIT)) == 2
    small = (((8, 27), 1), ((8, 72), 3), ((12, 70), 1))
    assert len(plan("polar_express", small, LIMIT)) == 1


def test_a_plan_keeps_to_the_limit_and_leaves_single_rows():
    small = (((8, 27), 1), ((8, 72), 3))
    assert len(plan("polar_express", small, 4 * 8 * 72)) == 1
    assert len(plan("polar_express", small, 4 * 8 * 72 - 1)) == 2
    assert len(plan("polar_express", (((1, 9), 64), ((8, 72), 3)), LIMIT)) == 2


def test_parts_of_other_kinds_are_not_joined():
    def part(method, *shape):
        stack = torch.empty(shape)
        return Matrices(stack, stack, method)

    def key(method, rows, columns, device="cuda:0"):
        return (method, None, device, torch.float32, rows, columns)

    shapes = {
        key("muon", 8, 27): [part("muon", 1, 8, 27)],
        key("muon", 8, 72): [part("muon", 1, 8, 72), part("muon", 2, 8, 72)],
        key("muon", 8, 70, "cuda:1"): [part("muon", 1, 8, 70)],
        key("svd", 8, 27): [part("svd", 1, 8, 27)],
        key("svd", 8, 28): [part("svd", 1, 8, 28)],
    }
    joined = join_shapes(shapes)
    assert sorted(len(parts) for parts in joined.values()) == [1, 1, 1, 3]
    assert all(key in shapes for key in joined)


@pytest.mark.parametrize("shape", [(12, 100), (40, 44)], ids=str)
def test_the_products_that_are_estimated_are_those_that_run(shape):
    ran = []

    def record(a, b, **options):
        ran.append((a.shape[-2], a.shape[-1], b.shape[-1], options.get("symmetric", False)))
        return multiply(a, b, **options)

    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    iterate_fused(matrix, express_schedule(matrix), record)
    assert sorted(ran) == sorted(tuple(product) for product in _products(FP16X3, *shape))


def test_estimates_follow_the_machine():
    slow = Machine(float32=1e12, half=2e12, bandwidth=1e11, launch=1e-3)
    for method in PADDED:
        one, many = estimate(method, 1, 64, 576), estimate(method, 1000, 64, 576)
        assert one.launches == many.launches
        assert many.work == pytest.approx(1000 * one.work)
        assert one.seconds >= one.launches * H200.launch * 0.999
        assert estimate(method, 1, 64, 576, slow).seconds > one.seconds
        assert estimate(method, 1, 576, 64) == one


def test_launches_matter_where_matrices_are_small():
    def problems(*shapes):
        return [
            Matrices(x, x, "polar_express") for x in (torch.empty(s, device="meta") for s in shapes)
        ]

    assert launches_matter(problems((1, 64, 576), (1, 64, 147), (3, 1, 9)))
    assert not launches_matter(problems((12, 768, 3072), (12, 768, 768)))
