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


@pytest.mark.slow
def test_the_result_in_one_file(tmp_path):
    path = EXAMPLES / "one_file.py"
    assert len(path.read_text().splitlines()) < 300
    out = finish(start_script(path, "--epochs", "5", "--out", str(tmp_path / "one.png")))
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", out)]
    assert losses[-1] < losses[0] / 2
    trained = float(re.findall(r"([\d.]+) % trained", out)[0])
    assert trained > 80  # chance is 10 %
    assert (tmp_path / "one.png").stat().st_size > 10_000
