from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from sslortho.recipes.supervised.options import SupervisedOptions
from sslortho.recipes.command_line import parse_config
from sslortho.paper.grid_file import read_experiment
from sslortho.runs.jobs import Job, check_data_dir, check_same_options, plan_jobs

PAPER = Path(__file__).parent.parent.parent / "configs" / "paper"


def test_the_first_seed_of_all_cells_comes_before_the_second_of_any(tmp_path):
    experiment = read_experiment(PAPER / "figure1.yaml")
    jobs = plan_jobs(experiment, tmp_path, Path("o"), 2, {"data_dir": "D", "subset": None})
    assert [job.name for job in jobs] == [
        "resnet20-sgd-s0", "resnet20-orth_sgd-s0", "resnet20-sgd-s1", "resnet20-orth_sgd-s1",
    ]  # fmt: skip
    last = jobs[-1]
    assert last.folder == Path("o/runs/resnet20-orth_sgd-s1")
    assert last.log == Path("o/logs/resnet20-orth_sgd-s1.log")
    assert last.script == tmp_path / "supervised.py"
    assert (last.options["seed"], last.options["data"], last.options["data_dir"]) == (
        1, "cifar10", "D",
    )  # fmt: skip
    assert "subset" not in last.options


@pytest.mark.parametrize(("name", "cell"), [("table1", 0), ("table2", 2), ("figure8", 1)])
def test_a_command_line_says_what_the_options_say(name, cell):
    experiment = read_experiment(PAPER / f"{name}.yaml")
    job = plan_jobs(experiment, Path("s"), Path("o"), 1, {"data_dir": "D"})[cell]
    parsed = asdict(parse_config(SupervisedOptions, job.arguments))
    for option, value in job.options.items():
        got = parsed[option]
        assert (list(got) if isinstance(got, tuple) else got) == value, option
    assert parsed["out"] == str(job.folder)


OPTIONS = {"lr": 0.1, "betas": [0.9, 0.99], "log_every": 5, "threads": 1, "data_dir": "D",
           "subset": 100, "cache": None, "loader": "auto", "workers": 2}  # fmt: skip


@pytest.fixture
def job(tmp_path):
    """A job whose folder holds a finished run of OPTIONS."""
    folder = tmp_path / "runs" / "a-s0"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text("{}")
    (folder / "config.yaml").write_text("# SupervisedOptions\n" + yaml.safe_dump(OPTIONS))
    return Job("a-s0", Path("s.py"), {}, folder, tmp_path / "a.log")


@pytest.fixture
def unfinished(job):
    (job.folder / "summary.json").unlink()
    (job.folder / "checkpoints").mkdir()
    (job.folder / "checkpoints" / "step-1.pt").touch()
    return job


def test_the_same_options_are_no_mistake(job):
    check_same_options(job, OPTIONS, ())
    check_same_options(job, {**OPTIONS, "lr": 1e-1, "unheard_of": 3}, ())
    check_same_options(job, {"lr": 0.1}, ())


def test_other_options_are_refused_with_both_values(job):
    with pytest.raises(ValueError, match="remove that folder") as caught:
        check_same_options(job, {**OPTIONS, "lr": 0.2}, {"log_every"})
    for part in (str(job.folder), "lr=0.1", "lr=0.2", "--out"):
        assert part in str(caught.value)


def test_an_option_that_is_given_no_more_is_refused(job):
    with pytest.raises(ValueError, match="subset=100, but subset=None is asked for"):
        check_same_options(job, {**OPTIONS, "subset": None}, ())


def test_some_options_may_change(job):
    check_same_options(job, {**OPTIONS, "log_every": 9, "out": "elsewhere"}, {"log_every"})
    with pytest.raises(ValueError, match="log_every=5"):
        check_same_options(job, {**OPTIONS, "log_every": 9}, ())


FED = {"threads": 2, "data_dir": "E", "workers": 0, "cache": "os", "loader": "files"}


@pytest.mark.parametrize("name", FED)
def test_how_a_finished_run_was_fed_may_change(job, name):
    check_same_options(job, {**OPTIONS, name: FED[name]}, ())


@pytest.mark.parametrize("name", FED)
def test_an_unfinished_run_goes_on_as_it_was_fed(unfinished, name):
    with pytest.raises(ValueError, match=f"{name}={FED[name]!r} is asked for"):
        check_same_options(unfinished, {**OPTIONS, name: FED[name]}, ())


def test_a_folder_without_results_may_be_used_for_anything(job):
    (job.folder / "summary.json").unlink()
    check_same_options(job, {**OPTIONS, "lr": 0.2}, ())


def test_data_must_be_there(tmp_path):
    check_data_dir("digits", None)
    check_data_dir("cifar10", str(tmp_path))
    with pytest.raises(ValueError, match="data='cifar10' needs data_dir"):
        check_data_dir("cifar10", None)
    with pytest.raises(ValueError, match=r"data_dir='.*gone' is no folder"):
        check_data_dir("cifar10", str(tmp_path / "gone"))
