import subprocess
import sys

import pytest

from sslortho.methods import METHODS, load_method
from sslortho.methods.options import METHOD_OPTIONS

CHECK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, Blocked())
"""

OPTIONS_WITHOUT_TORCH = """
from sslortho.methods.options import METHOD_OPTIONS, options_of_method

for name in METHOD_OPTIONS:
    options_of_method(name)(projector={"simsiam": "8-8-8", "dino": "8-8-8", "vicreg": "8-8"}.get(name, "8-8"))
"""

METHODS_WITHOUT_LIGHTLY = """
import torch
from sslortho.augment.published_views import create_views
from sslortho.methods import METHODS, load_method

for name in METHODS:
    method = load_method(name)
    assert all(method.takes(len(create_views(name + size))) for size in ("", "_small", "_digits"))
    method.Options()

method = load_method("barlow_twins")
backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
task = method(backbone, 5, method.Options(projector="4"))
task.before_step(0, 0, 1)
task((torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)), torch.zeros(4))["loss"].backward()
task.after_backward()
task.after_step()
"""


def test_names_options_and_classes_agree():
    assert list(METHODS) == list(METHOD_OPTIONS)
    for name in METHODS:
        assert load_method(name).Options is METHOD_OPTIONS[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("blocked", "program"),
    [
        ({"torch", "numpy", "lightly"}, OPTIONS_WITHOUT_TORCH),
        ({"lightly", "torchvision", "timm"}, METHODS_WITHOUT_LIGHTLY),
    ],
    ids=["options need no torch", "only a method that needs lightly imports it"],
)
def test_imports(blocked, program):
    code = f"BLOCKED = {blocked!r}{CHECK}{program}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
