"""Programs in a process that can import torch, what torch brings, and this package."""

import subprocess
import sys
from pathlib import Path

START = """
import sys
import torch

# torch loads some of what it needs (sympy, networkx, ...) with its first optimizer
torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1).step()
AVAILABLE = {name.partition(".")[0] for name in sys.modules} | set(sys.stdlib_module_names)

class OnlyTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in AVAILABLE | {"sslortho"}:
            raise ModuleNotFoundError(f"blocked: {name}")

sys.meta_path.insert(0, OnlyTorch())
sys.path[:0] = sys.argv[1:]
for peer in ("torchvision", "timm", "lightly", "accelerate", "sklearn", "jsonargparse"):
    assert peer not in AVAILABLE, peer
"""


def run_with_torch_alone(program: str, *folders: Path) -> str:
    """Run `program` where `folders` come first for imports, and return its output."""
    done = subprocess.run(
        [sys.executable, "-c", START + program, *map(str, folders)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
