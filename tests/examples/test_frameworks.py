"""The optimizers in other frameworks: each example runs, learns, and its docstring shows its code."""

import ast
import os
import re
import subprocess
import sys

import pytest
import torch
from helpers.script_runs import ENVIRONMENT, SCRIPTS, TORCHRUN

EXAMPLES = SCRIPTS.parent / "examples"


def run(folder, name, *arguments, launcher=(sys.executable,)):
    """Output of an example; it must leave no file in the folder that it is started in."""
    done = subprocess.run(
        [*launcher, str(EXAMPLES / name), *arguments],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert not os.listdir(folder)  # noqa: PTH208
    return done.stdout


def figures(pattern, printed):
    match = re.search(pattern, printed)
    assert match, printed
    return [float(figure) for figure in match.groups()]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lightly_simclr.py", "lightning_simclr.py"])
def test_contrastive_examples_learn(tmp_path, name):
    """With a rate of 0 the loss stays within 0.04."""
    printed = run(tmp_path, name, "--epochs", "3", "--batch_size", "64", "--subset", "192")
    losses = [float(loss) for loss in re.findall(r"epoch \d: loss ([\d.]+)", printed)]
    assert len(losses) == 3
    assert losses[-1] < losses[0] - 0.15
    assert all(
        0 < figure <= 100 for figure in figures(r"untrained (.+) %, trained (.+) %", printed)
    )


@pytest.mark.slow
def test_trainer_learns(tmp_path):
    printed = run(tmp_path, "hf_trainer.py", "--epochs", "2")
    untrained, trained = figures(r"untrained ([\d.]+) %, trained ([\d.]+) %", printed)
    assert untrained < 40 < 60 < trained


@pytest.mark.ranks
@pytest.mark.slow
@pytest.mark.skipif(torch.__version__ < "2.7", reason="fully_shard of torch 2.6 needs a GPU")
def test_sharded_training_equals_training_on_one_rank(tmp_path):
    printed = run(
        tmp_path, "accelerate_fsdp2.py", "--compare", "--epochs", "1", "--subset", "640",
        launcher=TORCHRUN,
    )  # fmt: skip
    assert "on 2 ranks" in printed
    (apart,) = figures(r"weights differ from one rank's by ([\d.e+-]+)", printed)
    assert apart < 1e-6


@pytest.mark.parametrize(
    "name", ["lightly_simclr.py", "lightning_simclr.py", "hf_trainer.py", "accelerate_fsdp2.py"]
)
def test_the_lines_shown_are_the_lines_run(name):
    text = (EXAMPLES / name).read_text()
    shown = ast.get_docstring(ast.parse(text))
    code = text.split('"""', 2)[2]
    added = re.findall(r"^ +\+(.+)$", shown, flags=re.MULTILINE)
    assert len(added) >= 2
    for line in added:
        right_hand_side = line.split(" = ")[-1]
        if "..." not in right_hand_side:
            assert right_hand_side in code, line
