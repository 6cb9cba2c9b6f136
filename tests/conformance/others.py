"""Adapters of other packages' optimizers, each set up as its documentation says."""

from functools import partial
from importlib.util import find_spec

import torch
from torch import nn

from conformance.adapter import (
    Adapter,
    Option,
    Together,
    hidden_matrices,
    jordan,
    moonlight,
    spectral,
)


def build_torch(model, lr, **options):
    """Muon over matrices of two dimensions, AdamW over the rest: the example of its docstring."""
    hidden, others = hidden_matrices(model)
    flat = [p for p in hidden if p.ndim == 2]
    others += [p for p in hidden if p.ndim != 2]
    optimizers = []
    if flat:
        optimizers.append(torch.optim.Muon(flat, lr=lr, weight_decay=0.0, **options))
    if others:
        optimizers.append(torch.optim.AdamW(others, lr=lr, weight_decay=0.0))
    return Together(*optimizers)


def build_timm(model, lr, opt="muon", **options):
    """timm's factory, which leaves the choice to the optimizer."""
    from timm.optim import create_optimizer_v2

    return create_optimizer_v2(model, opt=opt, lr=lr, weight_decay=0.0, **options)


def build_kozistr(model, lr, **options):
    """The two groups of the example in its docstring."""
    from pytorch_optimizer import Muon

    hidden, others = hidden_matrices(model)
    groups = [
        {"params": hidden, "use_muon": True, "lr": lr},
        {"params": others, "use_muon": False, "lr": lr},
    ]
    return Muon([group for group in groups if group["params"]], **options)


class Eager:
    """An optimizer whose steps are not compiled: a compilation takes longer than all the suite."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self):
        with torch.compiler.set_stance("force_eager"):
            self.optimizer.step()


def build_dion(model, lr, fused=False, **options):
    """Weights of dense layers, convolutions with flatten=True, AdamW for the rest, as its README's table."""
    import dion

    layers = [m for m in model.body if isinstance(m, nn.Linear) or hasattr(m, "kernel_size")]
    layers += [m for m in model.body.modules() if isinstance(m, nn.Linear) and m not in layers]
    hidden = [layer.weight for layer in layers]
    chosen = {id(p) for p in hidden}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    groups = [
        {"params": [p for p in hidden if p.ndim == 2]},
        {"params": [p for p in hidden if p.ndim > 2], "flatten": True},
        {"params": others, "algorithm": "adamw"},
    ]
    if fused:
        qkv = model.body[0].qkv.weight
        groups[0]["params"] = [p for p in groups[0]["params"] if p is not qkv]
        groups.append({"params": [qkv], "split_sizes": (qkv.shape[1],) * 3})
    groups = [group for group in groups if group["params"]]
    return Eager(dion.Muon(groups, lr=lr, weight_decay=0.0, **options))


def build_jordan(model, lr):
    """The groups of the example in its docstring."""
    from muon import SingleDeviceMuonWithAuxAdam

    hidden, others = hidden_matrices(model)
    groups = [
        {"params": hidden, "use_muon": True, "lr": lr},
        {"params": others, "use_muon": False, "lr": lr},
    ]
    return SingleDeviceMuonWithAuxAdam([group for group in groups if group["params"]])


def build_ultralytics(model, lr):
    """The groups that its trainer makes: two or four dimensions are Muon's. Its Muon part alone."""
    from ultralytics.optim.muon import MuSGD

    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim in (2, 4)], "use_muon": True},
        {"params": [p for p in parameters if p.ndim not in (2, 4)], "use_muon": False},
    ]
    return MuSGD(groups, lr=lr, momentum=0.95, nesterov=True, muon=1.0, sgd=0.0)


def installed(module):
    def is_installed():
        try:
            return find_spec(module) is not None
        except ModuleNotFoundError:  # of the package that would hold it
            return False

    return is_installed


OTHERS = {
    "torch": Adapter(
        title="torch.optim.Muon",
        package="torch",
        available=lambda: hasattr(torch.optim, "Muon"),
        options={
            "original": Option(build_torch, jordan),
            "match_rms_adamw": Option(
                partial(build_torch, adjust_lr_fn="match_rms_adamw"), moonlight
            ),
            "spectral_unclamped": Option(
                partial(build_torch, adjust_lr_fn="spectral_unclamped"), spectral
            ),
        },
        transfer="spectral_unclamped",
        takes_convolutions=False,  # "an optimizer for 2D parameters of neural network hidden layers"
    ),
    "timm": Adapter(
        title="timm Muon",
        package="timm",
        available=installed("timm.optim.muon"),
        options={
            "match_rms_adamw": Option(build_timm, moonlight),
            "original": Option(partial(build_timm, adjust_lr_fn="original"), jordan),
            "rms_to_rms": Option(partial(build_timm, adjust_lr_fn="rms_to_rms"), spectral),
        },
        nesterov=False,
        sorts="itself",
        transfer="rms_to_rms",
        note="It chooses by shape; `fallback_list` takes the names of tables to leave out.",
    ),
    "timm_adamuon": Adapter(
        title="timm AdaMuon",
        package="timm",
        available=installed("timm.optim.muon"),
        options={"match_rms_adamw": Option(partial(build_timm, opt="adamuon"), moonlight)},
        nesterov=False,
        accuracy=0.05,
        sorts="itself",
        orthogonal=False,
        note="It divides the orthonormal matrix by a second moment, so its size alone is tested.",
    ),
    "pytorch_optimizer": Adapter(
        title="pytorch_optimizer Muon",
        package="pytorch_optimizer",
        available=installed("pytorch_optimizer"),
        options={
            "default": Option(build_kozistr, jordan),
            "use_adjusted_lr": Option(partial(build_kozistr, use_adjusted_lr=True), moonlight),
        },
    ),
    "dion": Adapter(
        title="dion Muon",
        package="dion",
        available=installed("dion"),
        options={
            "spectral_norm": Option(build_dion, spectral),
            "rms_norm": Option(partial(build_dion, adjust_lr="rms_norm"), moonlight),
        },
        nesterov=False,
        split_qkv=(partial(build_dion, fused=True), 3),
        transfer="spectral_norm",
    ),
    "muon_optimizer": Adapter(
        title="K. Jordan's Muon",
        package="muon-optimizer",
        available=installed("muon"),
        options={"default": Option(build_jordan, jordan)},
    ),
    "ultralytics": Adapter(
        title="ultralytics MuSGD",
        package="ultralytics",
        available=installed("ultralytics"),
        options={"default": Option(build_ultralytics, jordan)},
        sorts="itself",
        note="Its Muon part alone (muon=1, sgd=0), grouped as its trainer does.",
    ),
}
