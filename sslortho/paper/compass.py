"""Compass search for a learning rate, and for a momentum beside it, with a fixed number of trials."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

Point = tuple[int, ...]
"""Place of a trial: eighths of a decade of the rate, then halvings of 1 - momentum for each momentum."""

RATE_STEPS = (4, 2, 1)
"""Distances between rates in eighths of a decade: factors of 3.2, 1.8 and 1.3."""

MOST_EXTRA = 6
"""Trials beyond their number that may follow a best rate or momentum at the edge of those tried."""


@dataclass(frozen=True)
class Compass:
    """Search from a start: look at the neighbours of the best point, and go on from the best.

    First the rate, 3.2 times larger and smaller, then each momentum, its distance to 1 halved and doubled;
    when no neighbour is better, the rate in finer steps. It ends after `trials`, but not while the best
    rate is the largest or the smallest of those tried with its momentum, or the best momentum the largest or
    the smallest of all that were tried. While all trials diverge the rate goes down. (Hooke and Jeeves, 1961,
    without the pattern moves.)

    Args:
        start: "lr" and, if any, momenta by name: momentum, orth_momentum, or beta1 of Adam.
        trials: number of points; of a rate alone it may be fewer, since steps do not get finer than 1.3.
        sums: whether "momentum" sums the steps, as that of SGD and LARS; that of Muon comes before the
            orthonormalisation.
    """

    start: Mapping[str, float]
    trials: int
    sums: bool = True

    @property
    def momenta(self) -> list[str]:
        """Names of the axes beside the rate."""
        return [name for name in self.start if name != "lr"]

    def values(self, point: Point) -> dict[str, float]:
        """Rate and momenta at a point.

        A momentum that sums the steps makes them 1 / (1 - momentum) times as long; the rate is divided by
        as much, so that only the momentum differs.
        """
        found: dict[str, float] = {}
        rate = self.start["lr"] * 10 ** (point[0] / 8)
        for name, halvings in zip(self.momenta, point[1:], strict=True):
            distance = (1 - self.start[name]) * 2.0**-halvings
            found[name] = round(1 - distance, 6)
            if name == "momentum" and self.sums:
                rate *= distance / (1 - self.start[name])
        return {"lr": float(f"{rate:.3g}"), **found}

    def next_point(self, results: Mapping[Point, float]) -> Point | None:
        """The next point to try; None if the search is over.

        Args:
            results: objective by point, in the order in which they were tried; larger is better, -inf where
                training diverged.
        """
        if not results:
            return (0,) * len(self.start)
        best = self.best(results)
        if len(results) >= self.trials + MOST_EXTRA:
            return None
        if math.isinf(results[best]):
            return (min(point[0] for point in results) - RATE_STEPS[0], *best[1:])
        if len(results) >= self.trials:
            return next(iter(self.missing_sides(results)), None)
        for step in RATE_STEPS:
            for point in self._neighbours(best, step):
                if point not in results:
                    return point
        return None

    def best(self, results: Mapping[Point, float]) -> Point:
        """The best point; of equal ones the first."""
        return max(results, key=lambda point: results[point])

    def missing_sides(self, results: Mapping[Point, float]) -> list[Point]:
        """Points that would bracket the best one: its rate first, then each momentum."""
        return [*self.missing_rates(results), *self.missing_momenta(results)]

    def missing_rates(self, results: Mapping[Point, float]) -> list[Point]:
        """Points beyond the best rate, where it is an edge of the rates tried with its momenta."""
        best = self.best(results)
        rates = [point[0] for point in results if point[1:] == best[1:]]
        sides = (max(rates) == best[0], RATE_STEPS[0]), (min(rates) == best[0], -RATE_STEPS[0])
        return [(best[0] + step, *best[1:]) for missing, step in sides if missing]

    def missing_momenta(self, results: Mapping[Point, float]) -> list[Point]:
        """Points beyond each best momentum, where none beyond it was tried at any rate.

        No momentum is below 0: nothing is missing there.
        """
        best = self.best(results)
        return [
            point
            for axis in range(1, len(best))
            for move in (1, -1)
            if not any(move * (tried[axis] - best[axis]) > 0 for tried in results)
            and (point := self._move(best, axis, move)) is not None
        ]

    def _move(self, point: Point, axis: int, move: int) -> Point | None:
        """The point with one momentum moved by halvings of 1 - momentum; None if it would be below 0."""
        moved = (*point[:axis], point[axis] + move, *point[axis + 1 :])
        possible = (1 - self.start[self.momenta[axis - 1]]) * 2.0 ** -moved[axis] <= 1
        return moved if possible else None

    def _neighbours(self, best: Point, step: int) -> list[Point]:
        found: list[Point] = [(best[0] + step, *best[1:]), (best[0] - step, *best[1:])]
        if step == RATE_STEPS[0]:
            moves = [
                self._move(best, axis, move) for axis in range(1, len(best)) for move in (1, -1)
            ]
            found += [point for point in moves if point is not None]
        return found
