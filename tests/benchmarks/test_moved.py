"""The old paths of the benchmarks."""

import pytest
from helpers.script_runs import SCRIPTS, start_script


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bench_optim", "bench_loading", "chaos"])
def test_the_old_path_runs_the_benchmark_and_names_the_new_one(name):
    process = start_script(f"{name}.py", "--help")
    out, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert f"usage: {name}.py" in out
    assert errors == f"scripts/{name}.py has moved to benchmarks/{name}.py\n"
    assert (SCRIPTS.parent / "benchmarks" / f"{name}.py").exists()
