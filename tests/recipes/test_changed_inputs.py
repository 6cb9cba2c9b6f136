"""Runs that resume on the same images under other paths, and on other images."""

import json
import os
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from helpers.ranks import run_on_ranks
from helpers.script_runs import TORCHRUN, finish, start_script
from PIL import Image

import sslortho
from sslortho.data.identity import ImageTable
from sslortho.recipes.changed_inputs import accept_changes, find_finished
from sslortho.recipes.command_line import parse_options
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.pretrain.run import run
from sslortho.recipes.training import check_ranks
from sslortho.runs.folder import RunFolder
from sslortho.runs.inputs import Inputs, read_tables, write_tables
from sslortho.runs.provenance import Session
from sslortho.runs.status import RunStoppedError
from sslortho.train.records import read_metrics
from sslortho.train.trainer import Trainer

QUIET = {"trackers": "none", "threads": 1, "log_every": 1}
SMALL = {
    **QUIET, "model": "basic_cnn", "epochs": 6, "warmup_epochs": 1, "batch_size": 8, "linear_probe": False,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """Folder with 48 training images and 8 test images of two classes."""
    numbers = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 4)):
        for name in "ab":
            (tmp_path / "fold" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = numbers.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "fold" / split / name / f"{name}{i:02}.png")
    return tmp_path / "fold"


@pytest.fixture
def stop_at(monkeypatch):
    """Function that asks for a stop after a step; None for never again."""
    step = Trainer._step
    wanted: list[int | None] = [None]

    def stepping(self, *arguments) -> None:
        step(self, *arguments)
        if self.progress.step + 1 == wanted[0]:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_step", stepping)
    return lambda number: wanted.__setitem__(0, number)


@pytest.fixture
def begun(folder, tmp_path, stop_at):
    """Folder of a pretraining of 36 steps that stopped at step 17, the fifth of the third epoch."""
    stop_at(17)
    with pytest.raises(RunStoppedError, match="step 17"):
        sslortho.pretrain(folder, out=tmp_path / "run", **SMALL)
    stop_at(None)
    return tmp_path / "run"


def rates(run) -> list[float]:
    """Learning rate at each step."""
    records = [r for r in read_metrics(RunFolder(run).metrics) if "loss" in r]
    names = [name for name in records[0] if name.startswith("lr/")]
    return [record[names[0]] for record in records]


@pytest.mark.slow
def test_the_same_images_under_another_path_resume_bit_by_bit(begun, folder, tmp_path, monkeypatch):
    whole = sslortho.pretrain(folder, out=tmp_path / "whole", **SMALL)
    monkeypatch.chdir(tmp_path)
    shutil.move("fold", "scratch")
    resumed = sslortho.pretrain("./scratch/../scratch", out=begun, **SMALL)
    ours, theirs = resumed.backbone.state_dict(), whole.backbone.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert rates(begun) == rates(tmp_path / "whole")
    assert resumed.summary["inputs"] == whole.summary["inputs"]
    assert "accepted_changes" not in resumed.summary
    assert yaml.safe_load((begun / "config.yaml").read_text())["data_dir"].endswith("scratch")


def delete_20(folder) -> None:
    for path in sorted((folder / "train/b").iterdir())[:20]:
        path.unlink()


@pytest.mark.slow
def test_other_images_are_refused_with_what_has_changed(begun, folder):
    before = {p: p.read_bytes() for p in begun.rglob("*") if p.is_file()}
    delete_20(folder)
    with pytest.raises(ValueError, match="cannot resume") as caught:
        sslortho.pretrain(folder, out=begun, **SMALL)
    for part in ("of 48 images 20 removed (b/b00.png, b/b01.png, b/b02.png, ...)",
                 "--accept_changed_data true", "3 steps instead of 6", "another --out"):  # fmt: skip
        assert part in str(caught.value)
    assert {p: p.read_bytes() for p in begun.rglob("*") if p.is_file()} == before


@pytest.mark.slow
def test_accepted_images_go_on_at_the_same_place_of_the_schedule(begun, folder, capsys):
    delete_20(folder)
    result = sslortho.pretrain(folder, out=begun, accept_changed_data=True, **SMALL)
    # 28 images: 3 steps an epoch; step 17 was 5/6 of the third epoch, its place now is 2/3
    assert result.summary["steps"] == 17 + 1 + 3 * 3
    found, peak = rates(begun), max(rates(begun))
    # one of six epochs warms up; from it a cosine falls to a thousandth
    cosine = [0.5 * (1 + np.cos(np.pi * (place - 3) / 15)) for place in range(8, 18)]
    assert found[17:] == pytest.approx([peak * (1e-3 + (1 - 1e-3) * c) for c in cosine])
    assert max(abs(np.diff(found[16:]))) < 0.03  # nor a jump at the change
    told = capsys.readouterr()
    assert "accepted: the training images have changed" in told.err
    (change,) = result.summary["accepted_changes"]
    assert change["step"] == 17
    assert "20 removed" in change["change"]
    assert result.summary["inputs"]["training"]["count"] == 28


@pytest.mark.slow
def test_a_place_is_kept_through_more_steps_an_epoch_and_a_second_stop(
    begun, folder, stop_at, tmp_path
):
    for path in sorted((folder / "train/a").iterdir()):
        shutil.copy(path, path.with_name(f"more{path.name}"))
    options = {**SMALL, "accept_changed_data": True}
    stop_at(20)
    with pytest.raises(RunStoppedError, match="step 20"):
        sslortho.pretrain(folder, out=begun, **options)
    stop_at(None)
    result = sslortho.pretrain(folder, out=begun, **SMALL)  # accepted once for all
    assert result.summary["steps"] == 17 + 2 + 3 * 9  # 72 images, place 7 of 9 in the third epoch
    assert len(result.summary["accepted_changes"]) == 1
    assert rates(begun)[-1] < 0.002


@pytest.mark.slow
def test_changed_test_images_are_named_as_such(begun, folder):
    (folder / "test/a/a00.png").rename(folder / "test/b/a00.png")
    told = r"the test images .*1 moved to another folder \(a/a00.png, now b/a00.png\).*as before"
    with pytest.raises(ValueError, match=told) as caught:
        sslortho.pretrain(folder, out=begun, **SMALL)
    assert "new order" not in str(caught.value)  # that of the training images stays


@pytest.mark.slow
def test_images_of_the_same_names_and_sizes_in_bytes_are_told_apart(begun, folder):
    path = folder / "train/a/a03.png"
    size = path.stat().st_size
    pixels = np.random.default_rng(1).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    assert path.stat().st_size == size  # noise cannot be compressed
    with pytest.raises(ValueError, match=r"of 48 images 1 of other content \(a/a03.png\)"):
        sslortho.pretrain(folder, out=begun, **SMALL)


class KilledError(Exception):
    """Stands for a process that is killed."""


@pytest.mark.slow
def test_killed_before_the_first_checkpoint_on_accepted_images(
    begun, folder, tmp_path, monkeypatch
):
    saved = shutil.copytree(folder, tmp_path / "saved")
    step = Trainer._step

    def kill(*_):
        raise KilledError

    monkeypatch.setattr(Trainer, "_step", kill)
    delete_20(folder)
    with pytest.raises(KilledError):
        sslortho.pretrain(folder, out=begun, accept_changed_data=True, **SMALL)
    monkeypatch.setattr(Trainer, "_step", step)
    with pytest.raises(ValueError, match=r"of 48 images 20 removed \(b/b00.png"):
        sslortho.pretrain(folder, out=begun, **SMALL)
    result = sslortho.pretrain(saved, out=begun, **SMALL)
    assert result.summary["steps"] == 36
    assert "accepted_changes" not in result.summary


@pytest.mark.slow
def test_what_is_accepted_holds_for_one_start(begun, folder, stop_at):
    delete_20(folder)
    stop_at(20)
    with pytest.raises(RunStoppedError):
        sslortho.pretrain(folder, out=begun, accept_changed_data=True, **SMALL)
    stop_at(None)
    config = begun / "config.yaml"
    assert yaml.safe_load(config.read_text())["accept_changed_data"] is False
    (folder / "train/a/a00.png").unlink()
    options = parse_options(PretrainOptions, ["--config", str(config)])
    with pytest.raises(ValueError, match=r"of 28 images 1 removed \(a/a00.png\)"):
        run(options, Session("sslortho pretrain"))


@pytest.mark.slow
def test_without_the_list_of_images_numbers_are_told(begun, folder):
    delete_20(folder)
    (begun / "images.npz").write_bytes(b"broken")
    with pytest.raises(ValueError, match="48 of 2 classes then, 28 of 2 now"):
        sslortho.pretrain(folder, out=begun, **SMALL)


@pytest.mark.slow
def test_a_finished_run_is_told_apart_from_one_on_other_images(begun, folder, tmp_path, capsys):
    sslortho.pretrain(folder, out=begun, **SMALL)
    copy = shutil.copytree(folder, tmp_path / "copy")
    again = sslortho.pretrain(copy, out=begun, **SMALL)
    assert "finished already" in capsys.readouterr().out
    assert again.summary["steps"] == 36
    delete_20(copy)
    with pytest.raises(ValueError, match=r"is of other data: .*20 removed.*another --out"):
        sslortho.pretrain(copy, out=begun, **SMALL)
    shutil.rmtree(folder)
    gone = sslortho.pretrain("path", data_dir=folder, out=begun, **SMALL)
    assert gone.summary["steps"] == 36  # a finished run outlives its data


@pytest.mark.slow
def test_checkpoints_of_version_0_1_are_compared_by_their_paths(begun, folder, tmp_path, stop_at):
    from sslortho.train.checkpoint import CheckpointFolder

    checkpoints = CheckpointFolder(begun / "checkpoints")
    state = checkpoints.load_latest()
    assert state is not None
    state.pop("format")
    assert state.pop("inputs").keys() == {"training", "test"}
    assert state.pop("steps_per_epoch") == 6
    checkpoints.save(state, 17)
    copy = shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(ValueError, match=r"did not record its images.*data_dir .*fold.*copy"):
        sslortho.pretrain(copy, out=begun, **SMALL)
    stop_at(18)
    with pytest.raises(RunStoppedError, match="step 18"):
        sslortho.pretrain(folder.parent / "." / "fold", out=begun, **SMALL)
    stop_at(None)
    checkpoints.save(state, 19)
    delete_20(folder)
    with pytest.raises(ValueError, match="an epoch had 6 steps, it has 3 now"):
        sslortho.pretrain(folder, out=begun, **SMALL)


def write_weights(path, seed) -> None:
    network = sslortho.models.create_backbone("basic_cnn", seed=seed)
    info = sslortho.models.BackboneInfo(
        backbone="basic_cnn", stem="stock", crop_size=32, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    sslortho.models.write_backbone(network, path, info)


EVALUATION = {**QUIET, "epochs": 3, "batch_size": 8, "pictures": False}


@pytest.mark.slow
def test_linear_evaluation_compares_images_and_weights(folder, tmp_path, stop_at):
    weights = tmp_path / "weights.safetensors"
    write_weights(weights, seed=0)

    def evaluate(path=weights, **options):
        values = {**EVALUATION, **options}
        return sslortho.linear_eval(path, data=folder, out=tmp_path / "probe", **values)

    stop_at(8)
    with pytest.raises(RunStoppedError):
        evaluate()
    stop_at(None)
    copy = shutil.copy(weights, tmp_path / "copy.safetensors")
    (folder / "train/a/a00.png").rename(folder / "train/b/a00.png")
    with pytest.raises(ValueError, match=r"1 moved to another folder \(a/a00.png, now b/a00.png\)"):
        evaluate()
    (folder / "train/b/a00.png").rename(folder / "train/a/a00.png")
    write_weights(weights, seed=1)
    for accepted in (False, True):
        with pytest.raises(ValueError, match=r"weights of the backbone have changed.*does not fit"):
            evaluate(accept_changed_data=accepted)
    assert evaluate(copy).summary["steps"] == 18
    with pytest.raises(ValueError, match="of other data: the weights of the backbone"):
        evaluate(weights)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:l2=")
@pytest.mark.parametrize("command", ["knn_eval", "linear_eval"])
def test_finished_evaluations_without_training_name_what_has_changed(folder, tmp_path, command):
    weights = tmp_path / "weights.safetensors"
    write_weights(weights, seed=0)
    own = {"protocol": "lbfgs"} if command == "linear_eval" else {"k": 2}

    def evaluate(data):
        options = {"out": tmp_path / "run", "threads": 1, "pictures": False, **own}
        return getattr(sslortho, command)(weights, data=data, **options)

    evaluate(folder)
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "train/a/a00.png").rename(copy / "train/b/a00.png")
    with pytest.raises(ValueError, match=r"1 moved to another folder \(a/a00.png, now b/a00.png\)"):
        evaluate(copy)
    again = evaluate(folder).summary
    write_weights(weights, seed=1)  # as a training that has gone on
    with pytest.raises(
        ValueError, match=r"of other data: the weights of the backbone have changed"
    ):
        evaluate(folder)
    write_weights(weights, seed=0)
    assert evaluate(folder).summary == again
    weights.unlink()  # figures outlive the weights
    assert evaluate(folder).summary == again


@pytest.mark.slow
def test_supervised_training_refuses_other_classes_whatever_is_accepted(folder, tmp_path, stop_at):
    def train(**options):
        values = {**QUIET, "epochs": 3, "batch_size": 8, "optim": "sgd", "lr": 0.01,
                  "pictures": False, **options}  # fmt: skip
        return sslortho.supervised(folder, "basic_cnn", out=tmp_path / "run", **values)

    stop_at(8)
    with pytest.raises(RunStoppedError):
        train()
    stop_at(None)
    for split in ("train", "test"):
        (folder / split / "b").rename(folder / split / "c")
    for accepted in (False, True):
        with pytest.raises(ValueError, match=r"class is gone \(b\).*does not fit"):
            train(accept_changed_data=accepted)
    for split in ("train", "test"):
        (folder / split / "c").rename(folder / split / "b")
    shutil.copy(folder / "train/a/a00.png", folder / "train/b/new.png")
    with pytest.raises(ValueError, match=r"1 added \(b/new.png\)"):
        train()
    result = train(accept_changed_data=True)
    assert result.summary["steps"] == 18
    content = json.loads((tmp_path / "run/summary.json").read_text())
    assert content["inputs"]["training"]["count"] == 49


@pytest.mark.ranks
@pytest.mark.slow
def test_two_ranks_compare_and_go_on_as_one(begun, folder):
    delete_20(folder)
    arguments = (
        "--data", str(folder), "--out", str(begun), "--backbone", "basic_cnn",
        "--epochs", "6", "--warmup_epochs", "1", "--batch_size", "8", "--linear_probe", "false",
        "--trackers", "none", "--threads", "1", "--log_every", "1",
    )  # fmt: skip
    refused = start_script("pretrain.py", *arguments, launcher=TORCHRUN)
    _, errors = refused.communicate(timeout=200)
    assert refused.returncode != 0
    assert "20 removed" in errors
    assert "Traceback" not in errors.split("torch/distributed")[0]
    finish(
        start_script("pretrain.py", *arguments, "--accept_changed_data", "true", launcher=TORCHRUN)
    )
    assert RunFolder(begun).read_summary()["steps"] == 27


def test_a_finished_run_whose_summary_is_broken_is_named(tmp_path):
    folder = RunFolder(tmp_path)
    folder.summary.write_text('{"steps": 2')
    with pytest.raises(ValueError, match=r"summary\.json is broken \(.+\); delete it, and"):
        find_finished(options(), folder, lambda: pytest.fail("the images do not matter"))


def options(**values) -> PretrainOptions:
    return PretrainOptions.of(epochs=6, batch_size=8, **values)


def table_of(count: int, classes: tuple[str, ...] = ("a", "b")) -> ImageTable:
    names = [f"{classes[i % 2]}/{i}.png" for i in range(count)]
    return ImageTable(np.arange(count) % 2, classes, names)


def checkpoint(inputs: Inputs, **values) -> dict:
    """Checkpoint of step 17: the fifth of six steps of the third epoch."""
    progress = {"step": 17, "epoch": 2, "step_in_epoch": 5}
    return {"progress": progress, "steps_per_epoch": 6, "inputs": inputs.state(), **values}


def test_nothing_is_told_where_nothing_changed(tmp_path):
    state = checkpoint(Inputs({"training": table_of(48)}))
    again = Inputs({"training": table_of(48)})
    assert accept_changes(options(), again, RunFolder(tmp_path), state, 6) == []


def test_changes_are_refused_or_kept_with_their_effect(tmp_path):
    folder, before = RunFolder(tmp_path), Inputs({"training": table_of(48)})
    write_tables(folder.images, before)
    now, state = Inputs({"training": table_of(28)}), checkpoint(before)
    with pytest.raises(ValueError, match=r"of 48 images 20 removed .*--accept_changed_data true"):
        accept_changes(options(), now, folder, state, 3)
    accepting = options(accept_changed_data=True)
    (entry,) = accept_changes(accepting, now, folder, state, 3)
    assert entry["step"] == 17
    assert "20 removed" in entry["change"]
    assert "3 steps instead of 6" in entry["effect"]
    assert "epoch 3 of 6 after step 2 of 3 (it was 5 of 6)" in entry["effect"]
    later = checkpoint(now, accepted_changes=[entry])
    assert len(accept_changes(accepting, before, folder, later, 6)) == 2


@pytest.mark.parametrize("classifies", [False, True])
def test_other_classes_matter_to_a_classifier_alone(tmp_path, classifies):
    before = Inputs({"training": table_of(4)}, classifies=classifies)
    now = Inputs({"training": table_of(4, ("a", "c"))}, classifies=classifies)
    accepting, state = options(accept_changed_data=True), checkpoint(before)
    if classifies:
        with pytest.raises(ValueError, match="does not fit"):
            accept_changes(accepting, now, RunFolder(tmp_path), state, 6)
    else:
        assert accept_changes(accepting, now, RunFolder(tmp_path), state, 6)


@pytest.mark.parametrize("hashes", [("x", "y"), ("x", None), (None, "y")])
def test_other_weights_never_fit(tmp_path, hashes):
    before, now = (Inputs({"training": table_of(4)}, digest) for digest in hashes)
    with pytest.raises(ValueError, match="does not fit"):
        accept_changes(
            options(accept_changed_data=True), now, RunFolder(tmp_path), checkpoint(before), 6
        )


@pytest.mark.parametrize("classes", [(), ("a",), ("é", "\udcff")])
@pytest.mark.parametrize("names", [None, ["a\nb.png", "\udcff.png"]])
def test_tables_are_read_as_they_were_written(tmp_path, classes, names):
    sizes = None if names is None else np.array([3, -1])
    table = ImageTable(np.array([0, -1]), classes, names, sizes, content="c")
    write_tables(tmp_path / "images.npz", Inputs({"training": table}))
    (found,) = read_tables(tmp_path / "images.npz").values()
    assert found.digest == table.digest
    assert found.classes == table.classes


def _compare_on_rank(rank):
    """Whether two ranks with the same images are let through; what is said of those with other ones."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    same = ImageTable(np.zeros(4, np.int64), ("a",))
    check_ranks(Inputs({"training": same}, "weights"), accelerator)
    said = []
    other = ImageTable(np.full(4, rank), ("a", "b"))
    for inputs in (
        Inputs({"training": other, "test": same}),
        Inputs({"training": same}, f"weights {rank}", hint=" (seed it)"),
        Inputs({"training": same, "test": same} if rank else {"training": same}),
    ):
        try:
            check_ranks(inputs, accelerator)
        except ValueError as error:
            said.append(str(error))
    chosen = SimpleNamespace(num_processes=2, mixed_precision="bf16" if rank else "no")
    try:
        check_ranks(Inputs({"training": same}), chosen)
    except ValueError as error:
        said.append(str(error))
    return said


@pytest.mark.ranks
def test_ranks_with_other_inputs_are_refused_on_each(tmp_path):
    said = run_on_ranks(_compare_on_rank, 2, tmp_path)
    assert said[0] == said[1]
    for texts in said:
        assert texts.pop() == (
            "the ranks' processors chose different precisions, no, bf16; give --mixed_precision no or bf16"
        )
    start = "ranks 0 and 1 do not have the same inputs"
    assert [text.split(";")[0] for text in said[0]] == [
        f"{start} (training)", f"{start} (backbone)", f"{start} (test)",
    ]  # fmt: skip
    assert said[0][1].endswith("the same objects (seed it)")
