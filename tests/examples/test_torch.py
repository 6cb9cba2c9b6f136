"""The examples for plain PyTorch, timm and torch.compile, started as their users do."""

import re

import pytest
from helpers.script_runs import SCRIPTS, finish, start_script

EXAMPLES = SCRIPTS.parent / "examples"


# chance is 10 %; aot_eager, since inductor would compile C++ for 15 seconds
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "least"),
    [
        ("plain_pytorch.py", [], 50),
        ("timm_train.py", [], 50),
        ("compiled_model.py", ["--backend", "aot_eager"], 75),
    ],
)
def test_it_learns(name, arguments, least):
    out = finish(start_script(EXAMPLES / name, "--epochs", "2", *arguments))
    accuracy = re.findall(r"accuracy on test digits:? ([\d.]+) %", out)[-1]
    assert float(accuracy) > least
    first, last = map(float, re.findall(r"loss ([\d.]+)", out))
    assert last < first
