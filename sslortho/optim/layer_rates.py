"""Learning rates by layer: parameter groups that are split by a factor of their rate."""

from collections.abc import Mapping
from typing import Any


def split_by_factor(
    groups: list[dict[str, Any]], factors: Mapping[int, float], lr: float
) -> list[dict[str, Any]]:
    """Split groups of `param_groups` so that each has one factor, and multiply its rate by it.

    Args:
        groups: with "params", "names" and "name"; `lr` where a group has none.
        factors: id of a parameter to its factor; 1 for others.
        lr: absolute learning rate of groups without one.
    """
    split: list[dict[str, Any]] = []
    for group in groups:
        by_factor: dict[float, list[int]] = {}
        for place, parameter in enumerate(group["params"]):
            by_factor.setdefault(factors.get(id(parameter), 1.0), []).append(place)
        for factor, places in sorted(by_factor.items(), reverse=True):
            part = {
                **group,
                "params": [group["params"][place] for place in places],
                "names": [group["names"][place] for place in places],
            }
            if factor != 1:
                part |= {
                    "name": f"{group['name']}, lr x {factor:.3g}",
                    "lr": group.get("lr", lr) * factor,
                }
            split.append(part)
    return split
