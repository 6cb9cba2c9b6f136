"""Losses of networks that have learned nothing."""

import math
from collections.abc import Mapping
from typing import Any


def trivial_loss(config: Mapping[str, Any]) -> float | None:
    """Loss of a network whose outputs know nothing of the image; None where the method has no such value.

    NT-Xent with 2 b views: log(2 b - 1) (arXiv 2002.05709, eq. 1); a queue of k keys: log(1 + k) (arXiv
    1911.05722, eq. 1); Barlow Twins: the number of outputs, each of which contributes 1 (arXiv 2103.03230,
    eq. 1); VICReg: the weight of the variance (arXiv 2105.04906, eq. 6); DINO: log of the number of outputs,
    at which collapsed runs are reported to stay (facebookresearch/dinov2, issue 407); LeJEPA: the weight of
    SIGReg times the statistic of a batch whose outputs are all 0 (arXiv 2511.08544, algorithms 1 and 2).
    """
    method, projector = config.get("method"), str(config.get("projector", ""))
    last = projector.rsplit("-", 1)[-1]
    outputs = int(last) if last.isdigit() else None
    samples = (config.get("batch_size") or 0) // (config.get("accumulation_steps") or 1)
    if method == "simclr" and samples:
        return math.log(2 * samples - 1)
    if method == "lejepa" and samples:
        # the integral of (1 - exp(-t^2 / 2))^2 exp(-t^2 / 2)
        statistic = math.sqrt(2 * math.pi) - math.sqrt(4 * math.pi) + math.sqrt(2 * math.pi / 3)
        return config.get("lambda_param", 0.0) * samples * statistic
    if method == "moco_v2" and config.get("queue"):
        return math.log(1 + config["queue"])
    if method == "barlow_twins" and outputs:
        return float(outputs)
    if method == "dino" and outputs:
        return math.log(outputs)
    if method == "vicreg":
        return config.get("variance")
    return None
