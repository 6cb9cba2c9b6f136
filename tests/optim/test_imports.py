import subprocess
import sys

import pytest
from helpers.torch_alone import run_with_torch_alone

PROGRAM = """
for blocked in ("timm", "torchvision", "accelerate"):  # or the rest would prove nothing
    try:
        __import__(blocked)
    except ModuleNotFoundError as error:
        assert "blocked: " in str(error)
    else:
        raise AssertionError(blocked)

import sslortho
import sslortho.losses
import sslortho.optim
from sslortho.optim import (
    LARS, OPTIMIZERS, Muon, OrthAdam, OrthAdamW, OrthLARS, OrthSGD,
    create_optimizer, describe_param_groups, orthogonal, orthonormalise_, param_groups, polar,
)

model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 3))

def step(optimizer):
    views = model(torch.randn(2 * 8, 3, 4, 4)).chunk(2)
    sslortho.losses.BarlowTwinsLoss()(*views).backward()
    optimizer.step()

uses = {
    "LARS": lambda: step(LARS(param_groups(model), lr=0.1)),
    "Muon": lambda: step(Muon(param_groups(model), lr=0.1)),
    "OPTIMIZERS": lambda: [step(create_optimizer(name, model.parameters(), lr=0.1)) for name in OPTIMIZERS],
    "OrthAdam": lambda: step(OrthAdam(model.parameters(), lr=0.1)),
    "OrthAdamW": lambda: step(OrthAdamW(model.parameters(), lr=0.1)),
    "OrthLARS": lambda: step(OrthLARS(param_groups(model), lr=0.1)),
    "OrthSGD": lambda: step(OrthSGD(model.parameters(), lr=0.1)),
    "create_optimizer": lambda: step(create_optimizer("lars", model.parameters(), lr=0.1)),
    "describe_param_groups": lambda: describe_param_groups(model, "conv"),
    "orthogonal": lambda: step(orthogonal(torch.optim.RMSprop)(model.parameters(), lr=0.1)),
    "orthonormalise_": lambda: orthonormalise_(model.parameters()),
    "param_groups": lambda: param_groups(model, "conv", lr=0.1),
    "polar": lambda: [polar(torch.randn(2, 3, 5), method) for method in
                      ("auto", "svd", "gram_eigh", "polar_express", "newton_schulz")],
}
for use in uses.values():
    use()
for module in (sslortho.optim, sslortho.losses):
    for name in module.__all__:
        found = getattr(module, name)
        assert getattr(sslortho, name, found) is found
assert not {"torchvision", "timm", "lightly", "accelerate"} & set(sys.modules)
print(*sorted(set(sslortho.optim.__all__) ^ set(uses)), "all used")
"""


@pytest.mark.slow
def test_every_public_name_needs_torch_alone():
    assert run_with_torch_alone(PROGRAM).strip() == "all used"


HEAVY = (
    "torch._dynamo", "torch._inductor", "torch.distributed.fsdp", "torch.distributed.tensor", "sympy", "triton",
    "matplotlib", "numba", "sklearn", "scipy", "pandas", "torchvision", "timm", "lightly", "accelerate", "PIL",
)  # fmt: skip
"""Packages that take long to import and that no optimizer needs before it steps."""


@pytest.mark.parametrize("module", ["sslortho.optim", "sslortho.losses"])
def test_an_import_loads_nothing_heavy_beside_torch(module):
    program = (
        "import sys, torch\n"
        f"before = set(sys.modules)\nimport {module}\n"
        "print(*set(sys.modules) - before)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert module in loaded
    assert not set(HEAVY) & set(loaded)


STEPS = """
import sys
import torch
from sslortho.optim import LARS, Muon, OrthLARS, param_groups

for cls in (LARS, OrthLARS, Muon):
    model = torch.nn.Linear(3, 2)
    optimizer = cls(param_groups(model), lr=0.1)
    optimizer.zero_grad()
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert "torch._dynamo" not in sys.modules, cls
torch.optim.SGD([torch.ones(1)])
print("torch._dynamo" in sys.modules)  # or the rest would prove nothing: torch's own import it
"""


def test_our_own_optimizers_step_without_the_compiler():
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]


TRAINING = """
import sys
import sslortho.recipes.pretrain.run
print(*sys.modules)
"""


def test_a_pretraining_loads_nothing_that_it_may_not_need():
    done = subprocess.run(
        [sys.executable, "-c", TRAINING], capture_output=True, text=True, check=True
    )
    unneeded = {"torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor", "sympy",
                "matplotlib", "sklearn", "pandas", "torchvision", "timm", "lightly"}  # fmt: skip
    assert not unneeded & set(done.stdout.split())
