"""The suite sees what is wrong: optimizers with one fault each fail the test of that fault."""

import dataclasses
import functools

import pytest
import torch
from torch import nn

from conformance import test_promises
from conformance.adapter import Adapter, Option, jordan
from conformance.layers import MATRICES
from conformance.others import OTHERS
from conformance.test_gradients import test_rank_deficient_gradient as check_rank
from conformance.test_gradients import test_zero_gradient as check_zero
from conformance.test_layers import test_embedding as check_embedding
from conformance.test_layers import test_matrix as check_matrix
from conformance.test_layers import test_vector_is_no_matrix as check_vector
from conformance.test_promises import test_order_of_momentum as check_order
from conformance.test_promises import test_rate_transfer as check_transfer
from conformance.test_promises import test_size_of_every_shape as check_sizes
from conformance.test_reports import test_dion_121_equal_shapes as check_equal_shapes
from conformance.test_reports import test_kozistr_372_rate_of_convolutions as check_rates
from conformance.test_reports import test_pytorch_180561_takes_convolutions as check_taken
from conformance.test_reports import test_ultralytics_25846_scale_of_flattened_matrix as check_scale
from conformance.width import best_rates

CASES = {case.name: case for case in MATRICES}


class Literal:
    """Muon in a few lines, by shape alone, with one fault or none."""

    def __init__(self, model, lr, fault=""):
        self.lr, self.fault = lr, fault
        self.parameters = [p for p in model.parameters() if p.ndim > 1]
        self.momenta = [torch.zeros_like(p) for p in self.parameters]

    def polar(self, matrix):
        if self.fault == "nan":
            return matrix / matrix.norm()
        u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
        kept = s > 1e-5 * s.max() if self.fault != "noise" else torch.ones_like(s) > 0
        return (u * kept) @ vt

    def factor(self, matrix, parameter):
        sides = parameter.shape[-2:] if self.fault == "kernel" else matrix.shape
        return max(1, sides[0] / sides[1]) ** 0.5 * (1.4 if self.fault == "long" else 1)

    @torch.no_grad()
    def step(self):
        directions = []
        for p, momentum in zip(self.parameters, self.momenta, strict=True):
            gradient = torch.zeros_like(p) if p.grad is None else p.grad
            momentum.mul_(0.95).add_(gradient)
            directions.append(gradient if self.fault == "memory" else gradient + 0.95 * momentum)
        if self.fault == "across" and len({d.shape for d in directions[:3]}) == 1:
            stacked = self.polar(torch.stack([d.flatten() for d in directions[:3]]))
            for p, row in zip(self.parameters[:3], stacked, strict=True):
                p.sub_(self.lr * row.reshape(p.shape))
            return
        for p, direction in zip(self.parameters, directions, strict=True):
            if p.ndim > 2 and self.fault == "flat":
                p.sub_(self.lr * p.grad)
                continue
            matrix = direction.flatten(1)
            update = self.factor(matrix, p) * self.polar(matrix)
            p.sub_(self.lr * update.reshape(p.shape))


def faulty(fault: str) -> Adapter:
    option = Option(lambda model, lr: Literal(model, lr, fault), jordan)
    return Adapter(title="", package="", options={"": option}, accuracy=0.01)


def convolution():
    return nn.Conv2d(4, 8, 3)


FAULTS = {
    "a scale from the kernel's sides": ("kernel", check_scale),
    "a scale from the kernel's sides, every rate": ("kernel", check_rates),
    "convolutions left out": ("flat", check_taken),
    "orthonormalised across layers": ("across", lambda a: check_equal_shapes(a, convolution)),
    "no momentum": ("memory", check_order),
    "0 / 0": ("nan", check_zero),
    "rounding noise kept": ("noise", check_rank),
    "groups mixed": ("", lambda a: check_matrix(a, CASES["grouped convolution"])),
    "depthwise filters mixed": ("", lambda a: check_matrix(a, CASES["depthwise convolution"])),
    "a table taken for a matrix": ("", check_embedding),
    "a gain taken for a matrix": ("", lambda a: check_vector(a, (16, 1, 1))),
}


@pytest.mark.parametrize(("fault", "check"), FAULTS.values(), ids=FAULTS)
def test_fault_is_seen(fault, check):
    with pytest.raises(AssertionError):
        check(faulty(fault))


def test_updates_that_are_too_long_are_seen():
    with pytest.raises(AssertionError, match=r"dense at : 1\.4"):
        check_sizes(faulty("long"))


@pytest.mark.slow
@pytest.mark.skipif(not OTHERS["torch"].available(), reason="torch has no Muon before 2.9")
def test_rate_that_moves_with_the_width_is_seen(monkeypatch):
    """At 8 times the width: at 4 times it moves by a factor near 2, and processors differ in bfloat16."""
    moonlight = dataclasses.replace(OTHERS["torch"], transfer="match_rms_adamw")
    wider = functools.partial(best_rates, widths=(64, 512))
    monkeypatch.setattr(test_promises, "best_rates", lambda option, widths: wider(option))
    with pytest.raises(AssertionError, match="best rates"):
        check_transfer(moonlight)


@pytest.mark.parametrize(
    "check",
    [check_scale, check_rates, check_taken, check_order, check_zero, check_rank]
    + [lambda a: check_equal_shapes(a, convolution)]
    + [lambda a, case=CASES[name]: check_matrix(a, case) for name in ("dense", "convolution")],
)
def test_right_optimizer_passes(check):
    check(faulty(""))
