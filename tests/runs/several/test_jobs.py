import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sslortho.recipes.supervised.options import SupervisedOptions
from sslortho.runs.several import jobs
from sslortho.runs.several.jobs import (
    Job,
    check_data_dir,
    check_same_options,
    child_environment,
    fit_subset,
    last_lines,
    plain_values,
)

OPTIONS = {"data": "cifar10", "data_dir": "D", "lr": 0.1, "betas": [0.9, 0.99], "log_every": 5,
           "threads": 1, "subset": 100, "workers": 2, "optim": "adam"}  # fmt: skip


def options(**changed):
    return SupervisedOptions(**{**OPTIONS, **changed})


@pytest.fixture
def job(tmp_path):
    """A job whose folder holds a finished run of OPTIONS."""
    folder = tmp_path / "runs" / "a-s0"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text("{}")
    content = yaml.safe_dump(plain_values(options()))
    (folder / "config.yaml").write_text("# sslortho supervised\n" + content)
    return Job("a-s0", "supervised", {}, folder, tmp_path / "a.log")


@pytest.fixture
def unfinished(job):
    (job.folder / "summary.json").unlink()
    (job.folder / "checkpoints").mkdir()
    (job.folder / "checkpoints" / "step-1.pt").touch()
    return job


def test_a_job_runs_the_installed_command(tmp_path):
    job = Job("a", "supervised", {"lr": 0.1, "stem": "stock"}, tmp_path / "a b", tmp_path / "l")
    arguments = ["supervised", "--lr", "0.1", "--stem", "stock", "--out", f"{tmp_path}/a b"]
    assert job.command_line() == [sys.executable, "-m", "sslortho", *arguments]
    assert job.command_line(4) == [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "4",
        "-m", "sslortho", *arguments,
    ]  # fmt: skip
    shown = f"sslortho supervised --lr 0.1 --stem stock --out '{tmp_path}/a b'"
    assert job.describe_command() == shown
    launcher = "torchrun --standalone --nproc_per_node 4 -m "
    assert job.describe_command(4) == launcher + shown


@pytest.mark.skipif(sys.version_info < (3, 11), reason="PYTHONSAFEPATH is of Python 3.11")
def test_a_child_imports_our_package_and_not_one_of_the_working_directory(tmp_path):
    (tmp_path / "sslortho").mkdir()
    (tmp_path / "sslortho" / "__init__.py").write_text("")
    (tmp_path / "sslortho" / "__main__.py").write_text("print('another')")
    done = subprocess.run(
        [sys.executable, *jobs.PROGRAM, "--version"],
        cwd=tmp_path, env=child_environment(tmp_path), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("sslortho ")


def test_a_checkout_that_is_the_working_directory_needs_no_installation(monkeypatch):
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    checkout = Path(jobs.__file__).parents[3]
    assert "PYTHONSAFEPATH" not in child_environment(checkout)
    assert child_environment(checkout / "docs")["PYTHONSAFEPATH"] == "1"


def test_the_same_options_are_no_mistake(job):
    check_same_options(job, options())
    check_same_options(job, options(lr=1e-1))
    stored = yaml.safe_load((job.folder / "config.yaml").read_text())
    del stored["label_smoothing"]  # of a version that did not have it yet
    (job.folder / "config.yaml").write_text(yaml.safe_dump({**stored, "unheard_of": 3}))
    check_same_options(job, options(label_smoothing=0.1))


def test_other_options_are_refused_with_both_values(job):
    with pytest.raises(ValueError, match="remove that folder") as caught:
        check_same_options(job, options(lr=0.2))
    for part in (str(job.folder), "lr=0.1", "lr=0.2", "--out"):
        assert part in str(caught.value)


def test_an_option_that_is_no_longer_given_is_refused(job):
    with pytest.raises(ValueError, match="subset=100, but subset=None is asked for"):
        check_same_options(job, options(subset=None))


def test_some_options_may_change_on_resume(unfinished):
    check_same_options(unfinished, options(log_every=9, out="elsewhere", workers=0))
    with pytest.raises(ValueError, match="epochs=20 is asked for"):
        check_same_options(unfinished, options(epochs=20))


FED = {"threads": 2, "data_dir": "E"}


@pytest.mark.parametrize("name", FED)
def test_where_a_finished_run_ran_may_change(job, name):
    check_same_options(job, options(**{name: FED[name]}))


def test_a_finished_run_may_be_of_another_precision_where_that_is_asked_for(job):
    other = options(mixed_precision="bf16")
    with pytest.raises(ValueError, match="mixed_precision='no', but mixed_precision='bf16' is"):
        check_same_options(job, other)
    check_same_options(job, other, {"mixed_precision"})
    with pytest.raises(ValueError, match=r"lr=0\.2 is asked for"):
        check_same_options(job, options(lr=0.2), {"mixed_precision"})


def test_an_unfinished_run_goes_on_in_its_precision(unfinished):
    with pytest.raises(ValueError, match="mixed_precision='bf16' is asked for"):
        check_same_options(unfinished, options(mixed_precision="bf16"), {"mixed_precision"})


def test_a_run_that_diverged_has_options_too(job):
    (job.folder / "summary.json").unlink()
    check_same_options(job, options(threads=2), ended=True)
    with pytest.raises(ValueError, match=r"lr=0\.2 is asked for"):
        check_same_options(job, options(lr=0.2), ended=True)


def test_an_unfinished_run_resumes_on_as_many_threads(unfinished):
    with pytest.raises(ValueError, match="threads=2 is asked for"):
        check_same_options(unfinished, options(threads=2))


def test_the_data_of_an_unfinished_run_are_compared_by_the_run_itself(unfinished):
    check_same_options(unfinished, options(data_dir="E"))


def test_how_files_are_read_may_change_once_a_run_is_finished(job):
    check_same_options(job, options(evaluate_every=0, rank_timeout=5.0))


def test_a_folder_that_an_older_version_stored_unexpanded_is_the_same(unfinished):
    path = unfinished.folder / "config.yaml"
    path.write_text(path.read_text().replace("data_dir: D", "data_dir: ~/D"))
    check_same_options(unfinished, options(data_dir="~/D"))


def test_a_folder_without_results_may_be_used_for_anything(job):
    (job.folder / "summary.json").unlink()
    check_same_options(job, options(lr=0.2))


def test_data_must_be_there(tmp_path):
    check_data_dir("digits", None)
    check_data_dir("cifar10", str(tmp_path))
    with pytest.raises(ValueError, match="data='cifar10' needs data_dir"):
        check_data_dir("cifar10", None)
    with pytest.raises(ValueError, match=r"data_dir='.*gone' is not a folder"):
        check_data_dir("cifar10", str(tmp_path / "gone"))


@pytest.mark.parametrize(
    ("data", "subset", "fitting"),
    [
        ("digits", 1437, 1437),
        ("digits", 1438, None),
        ("digits", None, None),
        ("cifar10", 50_001, None),
        ("folder", 10**9, 10**9),  # who knows
    ],
)
def test_a_subset_of_more_than_there_are_is_all(data, subset, fitting):
    assert fit_subset(data, subset) == fitting


def test_the_last_lines_of_a_log(tmp_path):
    log = tmp_path / "a.log"
    assert list(last_lines(log)) == []
    log.write_text("one\n0 %\r1 %\r" + "\n\n".join("abcd"))
    assert list(last_lines(log)) == ["1 %", "a", "b", "c", "d"]
