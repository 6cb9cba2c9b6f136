"""The command `sslortho`."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.script_runs import SCRIPTS, call_command

import sslortho
from sslortho.cli import COMMANDS, format_warning


def test_every_command_has_a_door_and_every_door_a_command():
    doors = {path.stem for path in SCRIPTS.glob("*.py")} - {"bench_loading", "bench_optim", "chaos"}
    assert doors == set(COMMANDS)
    for module, _ in COMMANDS.values():
        assert callable(importlib.import_module(module).main)


def test_help_lists_the_commands():
    done = call_command("--help")
    assert done.returncode == 0
    for name, (_, text) in COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert text in done.stdout


def test_the_version():
    assert call_command("--version").stdout == f"sslortho {sslortho.__version__}\n"


def test_an_unknown_command_names_the_nearest():
    done = call_command("pretain")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "sslortho: error: 'pretain' is not a command (did you mean pretrain?)"
    )
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["pretrain", "supervised", "linear_eval", "knn_eval"])
def test_mistakes_are_told_under_the_name_that_was_typed(name):
    done = call_command(name, "--debgu")
    assert done.returncode == 2
    assert done.stderr.startswith(f"sslortho {name}: error: ")


def test_warnings_for_the_user_show_no_code():
    ours, theirs = Path(sslortho.__file__).parent / "data" / "x.py", "/elsewhere/x.py"
    text = format_warning("2 images are broken", UserWarning, str(ours), 3)
    assert text == "warning: 2 images are broken\n"
    assert "x.py:3: UserWarning: odd" in format_warning("odd", UserWarning, theirs, 3)
    assert "DeprecationWarning" in format_warning("old", DeprecationWarning, str(ours), 3)


def test_it_runs_as_a_module(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "sslortho", "--version"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"sslortho {sslortho.__version__}\n"


def test_names_of_the_package_are_imported_on_use():
    program = (
        "import sys, sslortho\n"
        "assert 'torch' not in sys.modules\n"
        "assert set(sslortho.__all__) <= set(dir(sslortho))\n"
        "sslortho.OrthLARS, sslortho.optim.OrthSGD, sslortho.pretrain\n"
        "assert 'torch' in sys.modules\n"
        "try:\n"
        "    sslortho.nothing\n"
        "except AttributeError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "module 'sslortho' has no attribute 'nothing'\n"


def test_every_public_name_is_there():
    for name in sslortho.__all__:
        assert getattr(sslortho, name) is not None
    assert Path(sslortho.__file__).with_name("py.typed").exists()
