"""Adapters of this package's optimizers."""

from functools import partial

import sslortho.optim
from conformance.adapter import Adapter, Option, by_lars, jordan, moonlight, plain, spectral
from sslortho.optim import OrthLARS, OrthSGD, param_groups

EXACT = 2e-3
"""Distance from the polar factor in float32: rounding, also of weights that a small step is added to."""


def before(model, lr, **grouping):
    groups = param_groups(model, "all", **grouping)
    # raw gradients have the momentum after them alone, which 0 leaves out
    return OrthSGD(groups, lr=lr, momentum=0.0, orth_momentum=0.95, nesterov=True)


def after(model, lr, **grouping):
    return OrthSGD(param_groups(model, "all", **grouping), lr=lr, momentum=0.9)


def lars(model, lr, **grouping):
    groups = param_groups(model, "all", **grouping)
    return OrthLARS(groups, lr=lr, momentum=0.9, trust_coefficient=1e-3)


def muon(model, lr, scale="muon", **grouping):
    groups = param_groups(model, "all", **grouping)
    return sslortho.optim.Muon(groups, lr=lr, adamw_lr=lr, scale=scale, weight_decay=0.0)


def by_head(build):
    """Each of two heads of q, k and v is a matrix."""
    return (lambda model, lr: build(model, lr, attention="heads")), 6


OURS = {
    "muon": Adapter(
        title="sslortho Muon",
        package="sslortho",
        available=lambda: hasattr(sslortho.optim, "Muon"),
        options={
            name: Option(partial(muon, scale=name), scale)
            for name, scale in (
                ("muon", jordan),
                ("moonlight", moonlight),
                ("spectral", spectral),
                ("none", plain),
            )
        },
        accuracy=EXACT,
        sorts="itself",
        split_qkv=by_head(muon),
        transfer="spectral",
        ours=True,
    ),
    "orth_sgd_before": Adapter(
        title="OrthSGD, momentum before",
        package="sslortho",
        options={"none": Option(before, plain)},
        accuracy=EXACT,
        sorts="itself",
        split_qkv=by_head(before),
        ours=True,
    ),
    "orth_sgd": Adapter(
        title="OrthSGD, the paper's order",
        package="sslortho",
        options={"none": Option(after, plain)},
        order="after",
        momentum=0.9,
        nesterov=False,
        accuracy=EXACT,
        sorts="itself",
        split_qkv=by_head(after),
        ours=True,
    ),
    "orth_lars": Adapter(
        title="OrthLARS",
        package="sslortho",
        options={"trust ratio": Option(lars, by_lars(1e-3))},
        order="after",
        momentum=0.9,
        nesterov=False,
        accuracy=EXACT,
        sorts="itself",
        split_qkv=by_head(lars),
        layerwise=True,
        ours=True,
    ),
}
