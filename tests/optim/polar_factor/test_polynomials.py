import math

import numpy as np
import pytest
import torch
from numpy.polynomial import Polynomial
from scipy.optimize import linprog

from sslortho.optim.polar_factor.polynomials import (
    NEWTON_SCHULZ,
    evaluate,
    minimax_quintic,
    newton_schulz_schedule,
    polar_express_schedule,
)

INTERVALS = [(1e-3, 1.0), (0.02, 1.0), (0.3, 1.7), (0.5, 0.6), (0.4, 3.0), (0.7, 1.3)]


def odd_quintic(coefficients) -> Polynomial:
    a, b, c = coefficients
    return Polynomial([0, a, 0, b, 0, c])


def largest_error(coefficients, lower: float, upper: float, count: int = 20_001) -> float:
    grid = np.concatenate([np.linspace(lower, upper, count), np.geomspace(lower, upper, count)])
    return np.abs(1 - odd_quintic(coefficients)(grid)).max()


def smallest_possible_error(lower: float, upper: float) -> float:
    """The Chebyshev problem on a grid as a linear programme: a lower bound of the minimax error."""
    grid = np.linspace(lower, upper, 2001) / upper  # the degrees of freedom do not feel the scale
    powers = np.stack([grid, grid**3, grid**5], axis=1)
    slack = np.ones((len(grid), 1))
    constraints = np.block([[powers, -slack], [-powers, -slack]])
    sides = np.concatenate([np.ones(len(grid)), -np.ones(len(grid))])
    solution = linprog([0, 0, 0, 1], constraints, sides, bounds=[(None, None)] * 3 + [(0, None)])
    assert solution.success
    return solution.fun


@pytest.mark.parametrize(("lower", "upper"), INTERVALS)
def test_no_odd_quintic_is_nearer_to_one(lower, upper):
    error = largest_error(minimax_quintic(lower, upper), lower, upper)
    assert error == pytest.approx(smallest_possible_error(lower, upper), rel=1e-3, abs=1e-7)


@pytest.mark.parametrize(("lower", "upper"), [*INTERVALS, (0.99, 1.01), (0.998, 1.002)])
def test_error_alternates_at_the_ends_and_both_extrema(lower, upper):
    polynomial = odd_quintic(minimax_quintic(lower, upper))
    extrema = polynomial.deriv().roots()
    extrema = np.sort(extrema.real[np.abs(extrema.imag) < 1e-9])
    inside = extrema[(extrema > lower) & (extrema < upper)]
    assert len(inside) == 2
    errors = 1 - polynomial(np.array([lower, *inside, upper]))
    largest = largest_error(polynomial.coef[1::2], lower, upper)
    np.testing.assert_allclose(errors, largest * np.array([1, -1, 1, -1]), rtol=1e-4, atol=1e-13)


@pytest.mark.parametrize("radius", [1e-2, 1e-3, 5.1e-4, 4.9e-4, 1e-5])
@pytest.mark.parametrize("centre", [1.0, 0.3])
def test_narrow_intervals_reach_the_cubic_error(centre, radius):
    """Near its centre every such polynomial is 1 + 5/2 r^3 t^3; Chebyshev's is four times smaller."""
    lower, upper = centre * (1 - radius), centre * (1 + radius)
    error = largest_error(minimax_quintic(lower, upper), lower, upper)
    assert error <= 2.5 * radius**3 * 1.05 + 1e-14
    assert error >= 2.5 * radius**3 / 4 * 0.9 - 1e-14


def test_degenerate_interval_is_a_point():
    assert evaluate(minimax_quintic(0.7, 0.7), 0.7) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("x", [0.0, 1e-3, 0.5, 1.0, -1.3])
def test_evaluate_is_horners_rule(x):
    assert evaluate((2.0, -3.0, 0.5), x) == pytest.approx(2 * x - 3 * x**3 + 0.5 * x**5)


def test_newton_schulz_quintic_is_the_flattest_at_one():
    polynomial = odd_quintic(NEWTON_SCHULZ)
    derivatives = [polynomial(1.0), polynomial.deriv(1)(1.0), polynomial.deriv(2)(1.0)]
    np.testing.assert_allclose(derivatives, [1, 0, 0], atol=1e-14)


def compose(schedule, x):
    for quintic in schedule:
        x = odd_quintic(quintic)(x)
    return x


@pytest.mark.parametrize("schedule", [polar_express_schedule, newton_schulz_schedule])
@pytest.mark.parametrize("tolerance", [0.1, 1e-3, 1e-6])
@pytest.mark.parametrize("lower", [1e-3 / math.sqrt(512), 1e-3, 0.1, 0.5])
def test_schedule_reaches_the_tolerance_and_is_no_longer_than_needed(schedule, lower, tolerance):
    steps = schedule(lower, tolerance)
    grid = np.concatenate([np.linspace(lower, 1, 10_001), np.geomspace(lower, 1, 10_001)])
    assert np.abs(compose(steps, grid) - 1).max() <= tolerance * (1 + 1e-6) + 1e-12
    assert np.abs(compose(steps[:-1], grid) - 1).max() > tolerance


@pytest.mark.parametrize("rounding", [5e-4, -5e-4])
@pytest.mark.parametrize("schedule", [polar_express_schedule, newton_schulz_schedule])
@pytest.mark.parametrize("lower", [1e-3 / math.sqrt(512), 1e-3, 0.1])
def test_schedule_bears_rounding(schedule, lower, rounding):
    """Relative errors before each step must not build up: half a unit of a TF32 product, 2^-11."""
    x = np.concatenate([np.linspace(lower, 1, 10_001), np.geomspace(lower, 1, 10_001)])
    for quintic in schedule(lower, 1e-3):
        x = odd_quintic(quintic)(x * (1 + rounding))
    assert np.abs(x - 1).max() <= 1.1e-3


@pytest.mark.parametrize("schedule", [polar_express_schedule, newton_schulz_schedule])
def test_nothing_to_do_is_no_step(schedule):
    assert schedule(0.9995, 1e-3) == ()


@pytest.mark.parametrize("lower", [1e-4, 1e-3, 1e-2])
def test_minimax_steps_are_fewer_than_newton_schulz(lower):
    assert len(polar_express_schedule(lower, 1e-3)) < len(newton_schulz_schedule(lower, 1e-3))


def test_the_search_is_on_the_cpu_whatever_the_default_device():
    expected = minimax_quintic(0.123, 1.0)
    with torch.device("meta"):  # which has no values
        assert minimax_quintic(0.123, 1.0) == expected
