"""Looks of the views of a pipeline, in figures that a missing or weaker step changes.

Every pipeline's first round is measured, so that no rate is of views that lack a step.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sslortho.augment import ViewSpec

MEASURED = 512
"""Most views of a kind that are measured, for they take a millisecond each."""

Figures = dict[str, list[float]]


class Rendered:
    """Sums over the first and over the second views of a pipeline.

    Args:
        spec: its mean and std undo the normalisation, which gives levels from 0 to 1.
    """

    def __init__(self, spec: ViewSpec) -> None:
        self.mean = torch.tensor(spec.mean).view(3, 1, 1)
        self.std = torch.tensor(spec.std).view(3, 1, 1)
        self.count = 0
        self.sums = torch.zeros(2, 5, dtype=torch.float64)

    def add(self, views: Sequence[Tensor]) -> None:
        """Measure both views of a batch, each (batch, 3, size, size) and normalised."""
        wanted = min(len(views[0]), MEASURED - self.count)
        if not wanted:
            return
        for sums, view in zip(self.sums, views, strict=True):
            levels = view[:wanted] * self.std + self.mean
            spread = levels.amax(1) - levels.amin(1)
            sums += torch.tensor(
                [
                    (spread.amax((1, 2)) < 0.015).sum(),
                    (levels.amax((1, 2, 3)) < 0.52).sum(),
                    levels.diff(dim=-1).abs().mean((1, 2, 3)).sum(),
                    levels.mean((1, 2, 3)).sum(),
                    levels.std((1, 2, 3)).sum(),
                ],
                dtype=torch.float64,
            )
        self.count += wanted

    def describe(self) -> Figures:
        """Figures of the first and the second views.

        grey: share without colour. dark: share with no level above the middle, which solarising
        leaves. detail: mean difference of neighbouring pixels, which a blur lowers. brightness,
        contrast: mean and standard deviation of a view's levels.
        """
        means = (self.sums / max(1, self.count)).T.tolist()
        names = ("grey", "dark", "detail", "brightness", "contrast")
        return dict(zip(names, means, strict=True))


def find_differences(figures: Figures, reference: Figures, count: int) -> list[str]:
    """Words for each figure of `count` views that is further from the reference's than chance.

    Shares may differ by 4 deviations of a share of 0.2; brightness by 0.04; detail and contrast by a
    part that falls with the count, 0.22 of 512 views.
    """
    part = 0.15 + 1.5 / math.sqrt(max(1, count))
    share = 4 * math.sqrt(2 * 0.2 * 0.8 / max(1, count))
    found = []
    for name, values in figures.items():
        for view, value, other in zip(("first", "second"), values, reference[name], strict=True):
            if name in ("grey", "dark"):
                off = abs(value - other) > share
            elif name == "brightness":
                off = abs(value - other) > 0.04
            else:
                off = abs(value - other) > part * other
            if off:
                found.append(f"{name} of the {view} views {value:.3f}, not {other:.3f}")
    return found


def compare_rendered(rendered: Mapping[str, Rendered]) -> dict[str, dict[str, Any]]:
    """Figures of every pipeline that makes views, and how they differ from those of ours.

    The reference is the first pipeline whose name begins with "ours"; without one nothing differs.
    """
    measured = {name: found for name, found in rendered.items() if found.count}
    ours = next((name for name in measured if name.startswith("ours")), None)
    rows: dict[str, dict[str, Any]] = {}
    for name, found in measured.items():
        figures = found.describe()
        rows[name] = {"views": found.count, **figures, "differs": []}
        if ours:
            reference = measured[ours].describe()
            count = min(found.count, measured[ours].count)
            rows[name]["differs"] = find_differences(figures, reference, count)
    return rows
