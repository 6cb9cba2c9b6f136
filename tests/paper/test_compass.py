import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sslortho.paper.compass import MOST_EXTRA, Compass


def search(compass, objective):
    """Results of a whole search of a function of the values."""
    results = {}
    while (point := compass.next_point(results)) is not None:
        assert point not in results
        results[point] = objective(compass.values(point))
    return results


def peak(rate, momentum=None):
    """Accuracy that falls with the distance from the best rate, and from the best momentum."""

    def accuracy(values):
        away = abs(math.log10(values["lr"] / rate))
        if momentum is not None:
            away += abs(math.log2((1 - values["orth_momentum"]) / (1 - momentum)))
        return -away

    return accuracy


@given(st.floats(-2.5, 2.5), st.integers(4, 7))
def test_the_best_rate_has_worse_ones_on_both_sides(exponent, trials):
    compass = Compass({"lr": 0.5}, trials)
    rate = 0.5 * 10**exponent
    results = search(compass, peak(rate))
    best = compass.best(results)
    assert not compass.missing_sides(results)
    assert abs(math.log10(compass.values(best)["lr"] / rate)) <= 0.5
    assert trials <= len(results) <= trials + MOST_EXTRA


@given(st.floats(-0.45, 0.45), st.integers(5, 7))
def test_all_have_the_same_number_of_trials_where_the_start_is_near(exponent, trials):
    assert len(search(Compass({"lr": 1.0}, trials), peak(10**exponent))) == trials


def test_rates_are_tried_first_then_momenta_then_finer_rates():
    compass = Compass({"lr": 1.0, "orth_momentum": 0.9}, 9)
    tried = [compass.values(point) for point in search(compass, peak(1.0, 0.9))]
    assert [values["lr"] for values in tried] == [1, 3.16, 0.316, 1, 1, 1.78, 0.562, 1.33, 0.75]
    assert [values["orth_momentum"] for values in tried[3:5]] == [0.95, 0.8]


def test_a_better_momentum_is_found():
    compass = Compass({"lr": 1.0, "orth_momentum": 0.9}, 12)
    results = search(compass, peak(3.0, 0.975))
    assert compass.values(compass.best(results))["orth_momentum"] == 0.975


def test_a_momentum_that_sums_leaves_the_length_of_steps():
    start = {"lr": 2.0, "momentum": 0.9}
    for point in ((0, 0), (0, 1), (0, -2), (4, 2)):
        values = Compass(start, 5).values(point)
        length = values["lr"] / (1 - values["momentum"])
        assert length == pytest.approx(20 * 10 ** (point[0] / 8), rel=0.01)
        assert Compass(start, 5, sums=False).values(point)["lr"] == pytest.approx(
            2 * 10 ** (point[0] / 8), rel=0.01
        )


@given(
    st.floats(-1.2, 1.2), st.sampled_from([0.6, 0.8, 0.9, 0.95, 0.975, 0.9875]), st.integers(5, 8)
)
def test_the_best_momentum_has_others_on_both_sides(exponent, momentum, trials):
    compass = Compass({"lr": 1.0, "orth_momentum": 0.9}, trials)
    results = search(compass, peak(10**exponent, momentum))
    best = compass.best(results)
    momenta = {compass.values(point)["orth_momentum"] for point in results}
    chosen = compass.values(best)["orth_momentum"]
    assert len(results) <= trials + MOST_EXTRA
    if len(results) < trials + MOST_EXTRA:
        assert min(momenta) < chosen < max(momenta)
        assert not compass.missing_sides(results)


def test_the_rate_is_bracketed_before_the_momentum():
    compass = Compass({"lr": 1.0, "momentum": 0.9}, 5, sums=False)
    results = {(0, 0): 0.0, (4, 0): 1.0, (-4, 0): -1.0, (4, 1): 0.5, (4, -1): 2.0}
    sides = compass.missing_sides(results)
    assert sides == [(8, -1), (0, -1), (4, -2)]  # 0.6 is beyond 0.8, the smallest that was tried
    assert compass.next_point(results) == (8, -1)
    results |= {(8, -1): 0.1, (0, -1): 0.1}
    assert compass.missing_rates(results) == []
    assert compass.next_point(results) == (4, -2)
    assert compass.values((4, -2))["momentum"] == 0.6
    assert compass.next_point({**results, (4, -2): 0.3}) is None


def test_below_a_momentum_of_0_nothing_is_missing():
    compass = Compass({"lr": 1.0, "orth_momentum": 0.5}, 4)
    results = {(0, 0): 0.0, (4, -1): 1.0, (8, -1): 0.0, (0, -1): 0.0}
    assert compass.values((4, -1))["orth_momentum"] == 0
    assert compass.missing_sides(results) == []


def test_no_momentum_is_below_zero():
    compass = Compass({"lr": 1.0, "momentum": 0.5}, 40)
    results = search(compass, lambda values: -values["momentum"])
    assert min(compass.values(point)["momentum"] for point in results) == 0


def test_divergence_is_no_edge():
    compass = Compass({"lr": 10.0}, 6)
    results = search(
        compass, lambda values: -math.inf if values["lr"] > 1 else -abs(values["lr"] - 0.5)
    )
    best = compass.values(compass.best(results))["lr"]
    assert 0.25 < best <= 1


def test_of_equal_ones_the_first_is_best():
    compass = Compass({"lr": 1.0}, 5)
    assert compass.best(search(compass, lambda values: 7.0)) == (0,)
