import json
import math

import pytest
import torch
from accelerate.commands.launch import launch_command_parser
from safetensors.torch import save_file

from sslortho.recipes.run_options import RUN_OPTIONS
from sslortho.runs.several import reproduction
from sslortho.runs.several.reproduction import (
    build_command_line,
    compare_finished,
    compare_tensors,
    describe_changes,
    largest_difference,
)

SUMMARY = {
    "loss": 2.0, "knn_top1": None, "steps": 4, "images_per_second": 100.0, "command": "python x",
    "versions": {"torch": "2.9", "numpy": "2.0"}, "git_commit": "abc",
    "settings": {"ranks": 2, "machines": 1, "threads": 3, "device": "cpu"},
}  # fmt: skip


def read_finished(folder):
    return reproduction.read_finished(folder, RUN_OPTIONS)


def make_run(folder, kind="sslortho pretrain", weight=1.0, loss=(3.0, 2.0), **summary):
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


@pytest.mark.parametrize(
    ("first", "second", "different"),
    [
        ([0.0, 1.0], [-0.0, 1.0], 1),
        ([math.nan, 1.0], [math.nan, 1.0], 0),
        ([3, 4], [3, 5], 1),
    ],
)
def test_bits_are_compared_and_not_values(first, second, different):
    compared = compare_tensors("w", [(torch.tensor(first), torch.tensor(second))])
    assert compared.different == different
    assert compared.passes(0.0) is not bool(different)


def test_another_dtype_or_shape_is_another_tensor():
    ones = torch.ones(4)
    halved = compare_tensors("w", [(ones, ones.half())])
    assert (halved.different, halved.largest, halved.passes(0)) == (4, 0.0, False)
    assert halved.passes(1e-9)
    shorter = compare_tensors("w", [(ones, ones[:3])])
    assert (shorter.different, shorter.largest, shorter.passes(1e9)) == (4, math.inf, False)


def test_the_largest_difference_is_the_literal_one():
    generator = torch.Generator().manual_seed(0)
    for size in (1, 7, 50):
        first = torch.randn(size, generator=generator)
        second = first + 1e-3 * torch.randn(size, generator=generator)
        pairs = [(float(a), float(b)) for a, b in zip(first, second, strict=True)]
        scale = max(max(abs(a), abs(b)) for a, b in pairs)
        expected = max(abs(a - b) for a, b in pairs) / scale
        assert largest_difference(first, second) == pytest.approx(expected, rel=1e-12)


def test_a_value_that_moved_to_another_record_is_seen(tmp_path):
    records = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    for name, place in (("1", 0), ("2", 1)):
        folder = make_run(tmp_path / name)
        told = [
            record | ({"knn_top1": 50.0} if i == place else {}) for i, record in enumerate(records)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in told))
    assert compare_finished(tmp_path / "1", tmp_path / "2")[1].different > 0


def test_weights_that_are_missing_differ(tmp_path):
    first, second = make_run(tmp_path / "1"), make_run(tmp_path / "2")
    (second / "backbone.safetensors").unlink()
    assert compare_finished(first, second)[0].largest == math.inf


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("sslortho pretrain", "pretrain"),
        ("sslortho knn_eval", "knn_eval"),
        ("LinearEvalConfig", "linear_eval"),  # as versions up to 0.1 wrote it
    ],
)
def test_the_command_has_the_options_ranks_and_threads_of_the_run(tmp_path, kind, command):
    run = read_finished(make_run(tmp_path / "1", kind))
    text = " ".join(build_command_line(run, tmp_path / "2"))
    assert "torch.distributed.run --standalone --nproc_per_node 2" in text
    options = f"--config {tmp_path}/1/config.yaml --threads 3 --out {tmp_path}/2"
    assert text.endswith(f"-m sslortho {command} {options}")


def test_gpus_are_launched_by_accelerate_without_the_users_defaults(tmp_path):
    settings = SUMMARY["settings"] | {"ranks": 8, "machines": 2, "device": "cuda"}
    run = read_finished(make_run(tmp_path / "1", settings=settings))
    command = build_command_line(run, tmp_path / "2")
    parsed = launch_command_parser().parse_args(command[3:])
    assert command[1:3] == ["-m", "accelerate.commands.launch"]
    assert (parsed.num_processes, parsed.num_machines, parsed.multi_gpu) == (8, 1, True)
    assert (parsed.mixed_precision, parsed.module) == ("no", True)
    assert parsed.training_script == "sslortho"
    assert parsed.training_script_args == command[command.index("sslortho") + 1 :]


def test_one_process_needs_no_launcher(tmp_path):
    settings = SUMMARY["settings"] | {"ranks": 1, "device": "cuda"}
    run = read_finished(make_run(tmp_path / "1", settings=settings))
    assert build_command_line(run, tmp_path / "2")[1:4] == ["-m", "sslortho", "pretrain"]


def test_changes_since_then_are_listed(tmp_path):
    run = read_finished(make_run(tmp_path / "1"))
    now = {"git_commit": "def", "versions": {"torch": "2.9", "numpy": "2.1", "ffcv": "1.0"}}
    now["settings"] = {"threads": 3, "device": "cpu", "machines": 2}
    assert describe_changes(run, now) == [
        "git_commit: abc then, def now",
        "versions.numpy: 2.0 then, 2.1 now",
        "versions.ffcv: None then, 1.0 now",
        "settings.machines: 1 then, 2 now",
    ]


def test_a_folder_without_a_finished_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        read_finished(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"holds no config\.yaml"):
        read_finished(tmp_path)
    unfinished = make_run(tmp_path / "1")
    (unfinished / "summary.json").unlink()
    with pytest.raises(ValueError, match="is not finished; resume it"):
        read_finished(unfinished)
    with pytest.raises(ValueError, match=r"is of an unknown kind .'tune'"):
        read_finished(make_run(tmp_path / "2", "sslortho tune"))
    broken = make_run(tmp_path / "4")
    (broken / "summary.json").write_text('{"command": "pre')
    with pytest.raises(ValueError, match=r"summary\.json is broken \(.+\); delete it"):
        read_finished(broken)
    old = make_run(tmp_path / "3")
    (old / "summary.json").write_text('{"command": "python scripts/pretrain.py"}')
    with pytest.raises(ValueError, match=r"older version.*by hand: python scripts/pretrain\.py"):
        read_finished(old)
