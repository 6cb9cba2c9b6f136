from pathlib import Path

import pytest

from sslortho.paper.grid_file import read_experiment
from sslortho.paper.reproduce.plan import plan_jobs
from sslortho.recipes.command_line import parse_options
from sslortho.recipes.configs import configs_folder
from sslortho.recipes.supervised.options import SupervisedOptions

PAPER = configs_folder() / "paper"


def test_the_first_seed_of_all_cells_comes_before_the_second_of_any():
    experiment = read_experiment(PAPER / "figure1.yaml")
    jobs = plan_jobs(experiment, Path("o"), 2, {"data_dir": "D", "subset": None})
    assert [job.name for job in jobs] == [
        "resnet20-sgd-s0", "resnet20-orth_sgd-s0", "resnet20-sgd-s1", "resnet20-orth_sgd-s1",
    ]  # fmt: skip
    last = jobs[-1]
    assert last.folder == Path("o/runs/resnet20-orth_sgd-s1")
    assert last.log == Path("o/logs/resnet20-orth_sgd-s1.log")
    assert last.command == "supervised"
    assert (last.options["seed"], last.options["data"], last.options["data_dir"]) == (
        1, "cifar10", "D",
    )  # fmt: skip
    assert "subset" not in last.options


@pytest.mark.parametrize(("name", "cell"), [("table1", 0), ("table2", 2), ("figure8", 1)])
def test_a_command_line_says_what_the_options_say(name, cell):
    experiment = read_experiment(PAPER / f"{name}.yaml")
    job = plan_jobs(experiment, Path("o"), 1, {"data_dir": "D"})[cell]
    parsed = parse_options(SupervisedOptions, job.arguments).values()
    for option, value in job.options.items():
        got = parsed[option]
        assert (list(got) if isinstance(got, tuple) else got) == value, option
    assert parsed["out"] == str(job.folder)
