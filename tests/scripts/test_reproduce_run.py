import json

import pytest
from safetensors.torch import load_file, save_file
from script_runs import finish, start_script

TINY = [
    "--backbone", "basic_cnn", "--projector", "32-32", "--subset", "200", "--batch_size", "100",
    "--epochs", "2", "--warmup_epochs", "1", "--evaluate_every", "0", "--linear_probe", "false",
    "--trackers", "none", "--optim", "orth_lars",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "x"
    finish(start_script("pretrain.py", *TINY, "--out", str(out)))
    return out


def test_a_run_is_reproduced_bit_by_bit_and_a_changed_one_is_found_out(run):
    told = finish(start_script("reproduce_run.py", str(run)))
    assert told.count("the same bits") == 3
    again = run.with_name("x-reproduced")
    assert json.loads((again / "reproduction.json").read_text())["reproduced"] is True
    weights = load_file(run / "backbone.safetensors")
    name = next(name for name, value in weights.items() if value.is_floating_point())
    weights[name].view(-1)[0] += 1
    save_file(weights, run / "backbone.safetensors")
    process = start_script("reproduce_run.py", str(run))  # the rerun is finished already
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "1 differ" in out
