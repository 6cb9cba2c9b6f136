import json
import math

import pytest
import torch
from safetensors.torch import save_file

from sslortho.experiments.same_run import (
    build_command,
    compare_finished,
    describe_changes,
    read_finished,
)

SUMMARY = {
    "loss": 2.0, "knn_top1": None, "steps": 4, "images_per_second": 100.0, "command": "python x",
    "versions": {"torch": "2.9", "numpy": "2.0"}, "git_commit": "abc",
    "settings": {"ranks": 2, "machines": 1, "threads": 3, "device": "cpu"},
}  # fmt: skip


def make_run(folder, kind="PretrainConfig", weight=1.0, loss=(3.0, 2.0), **summary):
    folder.mkdir()
    (folder / "config.yaml").write_text(f"# {kind}\nseed: 0\n")
    (folder / "summary.json").write_text(json.dumps({**SUMMARY, **summary}))
    records = [{"step": i, "loss": x, "images_per_second": 10 * i} for i, x in enumerate(loss)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    weights = torch.tensor([weight, 4.0, math.nan])
    save_file({"w": weights}, folder / "backbone.safetensors")
    return folder


def test_two_runs_alike_are_the_same_bits_whatever_the_clock_says(tmp_path):
    first, second = make_run(tmp_path / "1"), make_run(tmp_path / "2", images_per_second=7.0)
    compared = compare_finished(first, second)
    assert [c.what for c in compared] == ["backbone.safetensors", "metrics.jsonl", "summary.json"]
    assert [c.numbers for c in compared] == [3, 4, 3]
    assert not any(c.different or c.largest for c in compared)


@pytest.mark.parametrize(
    ("change", "place", "largest"),
    [
        ({"weight": 1.0 + 2**-20}, 0, 2**-20 / 4),
        ({"loss": (3.0, 2.5)}, 1, 0.5 / 3),
        ({"loss": (3.0,)}, 1, math.inf),  # a record is missing
        ({"knn_top1": 50.0}, 2, math.inf),
    ],
)
def test_what_differs_is_told_with_its_size(tmp_path, change, place, largest):
    compared = compare_finished(make_run(tmp_path / "1"), make_run(tmp_path / "2", **change))
    assert [bool(c.different) for c in compared] == [i == place for i in range(3)]
    assert compared[place].largest == pytest.approx(largest, rel=1e-6)


def test_weights_that_are_missing_differ(tmp_path):
    first, second = make_run(tmp_path / "1"), make_run(tmp_path / "2")
    (second / "backbone.safetensors").unlink()
    assert compare_finished(first, second)[0].largest == math.inf


@pytest.mark.parametrize(
    ("kind", "script"), [("PretrainConfig", "pretrain.py"), ("KnnEvalConfig", "knn_eval.py")]
)
def test_the_command_has_the_options_ranks_and_threads_of_the_run(tmp_path, kind, script):
    run = read_finished(make_run(tmp_path / "1", kind))
    command = build_command(run, tmp_path / "scripts", tmp_path / "2")
    text = " ".join(command)
    assert "torch.distributed.run --standalone --nproc_per_node 2" in text
    expected = f"{tmp_path}/scripts/{script} --config {tmp_path}/1/config.yaml --threads 3 --out {tmp_path}/2"
    assert text.endswith(expected)


def test_changes_since_then_are_listed(tmp_path):
    run = read_finished(make_run(tmp_path / "1"))
    now = {"git_commit": "def", "versions": {"torch": "2.9", "numpy": "2.1"}}
    assert describe_changes(run, now) == [
        "git_commit: abc then, def now",
        "versions.numpy: 2.0 then, 2.1 now",
    ]


def test_what_is_no_finished_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no config\.yaml"):
        read_finished(tmp_path / "nothing")
    unfinished = make_run(tmp_path / "1")
    (unfinished / "summary.json").unlink()
    with pytest.raises(ValueError, match="is not finished; resume it"):
        read_finished(unfinished)
    with pytest.raises(ValueError, match=r"is of an unknown kind .'TuneConfig'"):
        read_finished(make_run(tmp_path / "2", "TuneConfig"))
    old = make_run(tmp_path / "3")
    (old / "summary.json").write_text('{"command": "python scripts/pretrain.py"}')
    with pytest.raises(ValueError, match=r"older version.*by hand: python scripts/pretrain\.py"):
        read_finished(old)
