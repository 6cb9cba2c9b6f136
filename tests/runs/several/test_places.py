import os

import pytest

from sslortho.runs.several.places import choose_places, job_environment, visible_gpus


@pytest.mark.parametrize(
    ("value", "gpus"),
    [("2,5", ["2", "5"]), ("GPU-1a, GPU-2b", ["GPU-1a", "GPU-2b"]), ("", []), ("-1", [])],
)
def test_chosen_gpus_are_taken(monkeypatch, value, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == gpus


def test_gpus_are_those_that_nvidia_smi_lists(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\necho '  MIG 1g.10gb Device 0'\n"
        "echo 'GPU 1: NVIDIA H100 (UUID: GPU-2)'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == ["0", "1"]
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert visible_gpus() == []
    program.unlink()
    assert visible_gpus() == []


@pytest.mark.parametrize(
    ("gpus", "jobs", "places"),
    [
        ("", None, [None]),
        ("", 2, [None, None]),
        ("4,7", None, ["4", "7"]),
        ("4,7", 1, ["4"]),
        ("4,7", 3, ["4", "7", "4"]),
    ],
)
def test_places_are_one_a_gpu_or_as_many_as_asked(monkeypatch, gpus, jobs, places):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    assert choose_places(jobs) == places


@pytest.mark.parametrize(
    ("jobs", "each", "places"),
    [
        (None, 2, ["0,1", "2,3"]),
        (None, 3, ["0,1,2"]),
        (1, 2, ["0,1"]),
        (3, 2, ["0,1", "2,3", "0,1"]),
    ],
)
def test_a_run_may_have_several_gpus(monkeypatch, jobs, each, places):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4"[: 9 if each == 3 else 7])
    assert choose_places(jobs, each) == places


def test_more_gpus_a_run_than_there_are_is_an_error(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(ValueError, match="gpus_per_run=4, but 2 GPUs are there"):
        choose_places(None, 4)


def test_jobs_share_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert "OMP_NUM_THREADS" not in job_environment(None, 1)
    assert job_environment("4,7", 3)["OMP_NUM_THREADS"] == "2"
    assert job_environment("4,7", 3)["CUDA_VISIBLE_DEVICES"] == "4,7"
