import subprocess
import sys

PROGRAM = """
import sys
import torch

# torch loads some of what it needs (sympy, networkx, ...) with its first optimizer
torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1).step()
available = {name.partition(".")[0] for name in sys.modules} | set(sys.stdlib_module_names)

class OnlyTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in available | {"sslortho"}:
            raise ModuleNotFoundError(f"blocked: {name}")

sys.meta_path.insert(0, OnlyTorch())
for peer in ("torchvision", "timm", "lightly", "accelerate", "sklearn", "jsonargparse"):
    assert peer not in available, peer

from sslortho.losses import BarlowTwinsLoss
from sslortho.optim import OrthLARS, param_groups

model = torch.nn.Linear(4, 3)
optimizer = OrthLARS(param_groups(model), lr=0.1)
BarlowTwinsLoss()(model(torch.randn(8, 4)), model(torch.randn(8, 4))).backward()
optimizer.step()
print("stepped without", "torchvision" in sys.modules)
"""


def test_optimizers_and_losses_need_torch_alone():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "stepped without False"
