"""The commands as Python functions, beside what the commands write."""

import json
import shlex
import subprocess
import threading
from pathlib import Path

import pytest
import torch
from helpers.script_runs import ENVIRONMENT, TORCHRUN, call_command
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import sslortho
from sslortho.augment.views import CIFAR10_MEAN, CIFAR10_STD
from sslortho.data import load_split
from sslortho.options import GIVEN
from sslortho.recipes.api import TrainingResult
from sslortho.recipes.backbone import load_subject
from sslortho.recipes.calls import torch_as_before
from sslortho.recipes.command_line import create_options
from sslortho.recipes.given import Given
from sslortho.recipes.knn_eval.options import KnnEvalOptions
from sslortho.recipes.linear_eval.options import LinearEvalOptions
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.supervised.options import SupervisedOptions

QUIET = {"threads": 1, "trackers": "none"}
FEW = {**QUIET, "subset": 100, "batch_size": 50, "epochs": 1, "warmup_epochs": 0}
PRETRAIN = {**FEW, "projector": "16-16", "linear_probe": False, "evaluate_every": 0}
RATES = (
    "images_per_second", "time_shares", "peak_memory_gib", "seconds_this_session", "finished", "command",
    "config", "plan",
)  # fmt: skip
"""Entries of a summary that differ between two runs of the same options."""


RESULT = TrainingResult(torch.nn.Conv2d(3, 4, 3), {"loss": 1.0}, Path("runs/x"))


def arguments(**options):
    return [word for name, value in options.items() for word in (f"--{name}", _text(value))]


def _text(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


def figures(summary):
    return {name: value for name, value in summary.items() if name not in RATES}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Two steps of a pretraining by the function."""
    out = tmp_path_factory.mktemp("runs") / "python"
    return sslortho.pretrain("digits", "basic_cnn", method="simclr", out=out, seed=3, **FEW)


@pytest.mark.slow
def test_pretraining_is_the_command(pretrained, tmp_path):
    out = tmp_path / "command"
    given = {"backbone": "basic_cnn", "method": "simclr", "seed": 3, **FEW}
    done = call_command("pretrain", *arguments(**given, out=out))
    assert done.returncode == 0, done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert figures(pretrained.summary) == figures(summary)
    ours, theirs = pretrained.backbone.state_dict(), load_file(out / "backbone.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not pretrained.backbone.training
    assert pretrained.backbone(torch.zeros(2, 3, 32, 32)).shape == (2, 512)
    assert pretrained.summary == json.loads((pretrained.folder / "summary.json").read_text())


def test_the_stored_command_gives_the_same_options(pretrained):
    words = shlex.split(pretrained.summary["command"])
    assert words[:4] == ["sslortho", "pretrain", "--data", "digits"]
    done = call_command(*words[1:])
    assert done.returncode == 0, done.stderr
    assert "finished already" in done.stdout


def test_a_finished_run_is_returned(pretrained, capsys):
    again = sslortho.pretrain(
        "digits", "basic_cnn", method="simclr", out=pretrained.folder, seed=3, **FEW
    )
    assert again.summary == pretrained.summary
    assert "finished already" in capsys.readouterr().out


@pytest.mark.slow
def test_another_precision_in_the_same_process(pretrained, tmp_path):
    for precision in ("bf16", "no"):
        options = {"threads": 1, "k": 5, "mixed_precision": precision, "pictures": False}
        found = sslortho.knn_eval(pretrained.folder, out=tmp_path / precision, **options)
        assert found.summary["settings"]["mixed_precision"] == precision


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear_eval", "knn_eval"])
def test_an_evaluation_is_the_command(pretrained, name, tmp_path):
    options = {"threads": 1, "pictures": False, "subset": 100}
    if name == "linear_eval":
        options |= {**QUIET, "batch_size": 50, "epochs": 1}
    found = getattr(sslortho, name)(pretrained.folder, out=tmp_path / "python", **options)
    given = {**options, "backbone_from": pretrained.folder, "out": tmp_path / "command"}
    done = call_command(name, *arguments(**given))
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "command" / "summary.json").read_text())
    assert figures(found.summary) == figures(summary)
    assert found.folder == tmp_path / "python"


@pytest.mark.slow
def test_supervised_training_is_the_command(tmp_path):
    options = {**FEW, "pictures": False}
    found = sslortho.supervised("digits", "basic_cnn", out=tmp_path / "python", **options)
    given = {**options, "backbone": "basic_cnn", "out": tmp_path / "command"}
    assert call_command("supervised", *arguments(**given)).returncode == 0
    summary = json.loads((tmp_path / "command" / "summary.json").read_text())
    assert figures(found.summary) == figures(summary)
    ours = found.backbone.state_dict()
    theirs = load_file(tmp_path / "command" / "backbone.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_training_that_diverges_is_a_result(tmp_path):
    wild = {**FEW, "optim": "sgd", "lr": 1e30, "momentum": 0, "max_bad_steps": 1}
    found = sslortho.supervised("digits", "basic_cnn", out=tmp_path, pictures=False, **wild)
    assert found.summary["diverged"] is True
    assert found.backbone is None


@pytest.mark.slow
def test_a_call_from_another_thread(tmp_path):
    results = []

    def call():
        run = sslortho.pretrain("digits", "basic_cnn", out=tmp_path / "run", **PRETRAIN)
        results.append(run)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert results[0].summary["steps"] == 2


def test_ranks_of_a_launcher_have_one_run_each(pretrained, monkeypatch):
    sslortho.extract_features(pretrained.folder, threads=1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="this process has had its run"):
        sslortho.extract_features(pretrained.folder, threads=1)


TWO_RANKS = """
import json, os, sys
from pathlib import Path
import sslortho
from sslortho.recipes.pretrain import run

def fail(folder, summary):
    raise OSError("no room")

rank, out, fails = os.environ["RANK"], Path(sys.argv[1]), sys.argv[2] == "fails"
if fails:
    run.judge = fail
try:
    result = sslortho.pretrain("digits", "basic_cnn", out=out / "run", **json.loads(sys.argv[3]))
    (out / rank).write_text(json.dumps(result.summary["verdict"]))
except (OSError, ValueError) as error:
    (out / rank).write_text(f"{type(error).__name__}: {error}")
"""


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.parametrize("fails", [False, True])
def test_every_rank_has_the_verdict_or_the_error(tmp_path, fails):
    script = tmp_path / "program.py"
    script.write_text(TWO_RANKS)
    words = [str(tmp_path), "fails" if fails else "", json.dumps(PRETRAIN)]
    done = subprocess.run(
        [*TORCHRUN, str(script), *words], env=ENVIRONMENT, timeout=200, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = [(tmp_path / rank).read_text() for rank in "01"]
    summary = tmp_path / "run/summary.json"
    if fails:
        assert told[0] == "OSError: no room"
        assert told[1] == "ValueError: rank 0 failed (OSError: no room)"
        assert not summary.exists()
    else:
        assert told[0] == told[1]
        assert json.loads(told[0]) == json.loads(summary.read_text())["verdict"]


# Features and weights


def test_features_are_those_of_the_backbone_in_order(pretrained):
    found = sslortho.extract_features(pretrained.folder, threads=1)
    test = load_split("digits", None, "test")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (CIFAR10_MEAN, CIFAR10_STD))
    with torch.no_grad():
        expected = pretrained.backbone((test.images / 255 - mean) / std)
    assert found.features.dtype == torch.float32
    torch.testing.assert_close(found.features, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.labels, test.labels)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_a_wrapped_backbone_is_read_as_itself(pretrained, wrap):
    options = KnnEvalOptions(backbone_from=GIVEN)
    plain, wrapped = (
        load_subject(options, 99, Given(backbone=module)).info
        for module in (pretrained.backbone, wrap(pretrained.backbone))
    )
    assert wrapped == plain
    assert wrapped.crop_size != 99


def test_pixels_themselves_are_a_baseline(tmp_path):
    images = torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 8, 8, 3) * 30
    data = (images.contiguous(), torch.arange(8) // 4)
    options = {"k": 1, "crop_size": 8, "threads": 1, "pictures": False}
    found = sslortho.knn_eval(nn.Flatten(), data, test_data=data, out=tmp_path, **options)
    assert found.summary["knn_top1"] == 100


def test_messages_name_the_argument(tmp_path):
    with pytest.raises(ValueError, match=r"^weights=.*gone' does not exist"):
        sslortho.load_backbone(tmp_path / "gone")


def test_a_run_that_diverged_has_no_weights(tmp_path):
    (tmp_path / "summary.json").write_text('{"diverged": true}')
    with pytest.raises(ValueError, match="is a run that diverged, and has no weights"):
        sslortho.load_backbone(tmp_path)


def test_features_of_a_folder_without_labels(pretrained, tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        (tmp_path / split).mkdir()
        for i in range(count):
            Image.new("RGB", (32, 32), (60 * i, 0, 0)).save(tmp_path / split / f"{i}.png")
    for split, count in (("train", 3), ("test", 2)):
        found = sslortho.extract_features(pretrained.folder, tmp_path, split=split, threads=1)
        assert found.features.shape == (count, 512)
        assert found.labels.tolist() == [-1] * count


def test_weights_are_loaded_from_a_run_or_a_file(pretrained):
    images = torch.randn(2, 3, 32, 32)
    expected = pretrained.backbone(images)
    for weights in (pretrained.folder, str(pretrained.folder / "backbone.safetensors")):
        backbone = sslortho.load_backbone(weights)
        assert not backbone.training
        assert torch.equal(backbone(images), expected)
    with pytest.raises(ValueError, match="fit backbone='basic_cnn'"):
        sslortho.load_backbone(pretrained.folder, "resnet20")


# Values and names


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (
            SupervisedOptions,
            {"weight_dcay": 0},
            "'weight_dcay' is not an option .did you mean weigh",
        ),
        (SupervisedOptions, {"help": True}, "'help' is not an option"),
        (SupervisedOptions, {"config": "cifar10"}, "'config' is not an option"),
        (SupervisedOptions, {"epochs": 2.5}, "epochs.*2.5"),
        (SupervisedOptions, {"epochs": True}, "epochs.*True"),
        (SupervisedOptions, {"epochs": None}, "epochs"),
        (SupervisedOptions, {"lr": float("nan")}, "lr"),
        (SupervisedOptions, {"lr": [0.1]}, "lr"),
        (SupervisedOptions, {"lr": object()}, "lr=<object .* must be a number"),
        (SupervisedOptions, {"data": "digit"}, "data"),
        (SupervisedOptions, {"seed": -1}, "seed=-1 must be from 0"),
        (PretrainOptions, {"temperature": 0.3}, "it is an option of --method simclr"),
        (PretrainOptions, {"method": "simclrr"}, "did you mean simclr"),
        (LinearEvalOptions, {}, "backbone_from"),
    ],
)
def test_values_are_checked_as_on_the_command_line(cls, values, message):
    with pytest.raises(ValueError, match=message):
        create_options(cls, values)


def test_values_become_those_that_the_options_hold(tmp_path):
    options = create_options(
        SupervisedOptions,
        {
            "lr": 1, "milestones": (1, 2.5), "schedule": "multi_step", "subset": None,
            "out": tmp_path / "-a b", "betas": [0.9, 0.99], "optim": "adam", "compile": True,
            "batch_size": torch.tensor(64),
        },
    )  # fmt: skip
    assert isinstance(options.lr, float)
    assert options.milestones == [1.0, 2.5]
    assert options.betas == (0.9, 0.99)
    assert options.out == str(tmp_path / "-a b")
    assert options.compile is True
    assert options.batch_size == 64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sslortho.pretrain("digit"), "data='digit' is neither .* .did you mean digits"),
        (lambda: sslortho.pretrain(3), "data=3 is no images that can be read"),
        (lambda: sslortho.pretrain(".", data_dir="x"), "are two folders"),
        (lambda: sslortho.pretrain("digits", "a", backbone="b"), "are one option"),
        (lambda: sslortho.pretrain(epoch=3), "did you mean epochs"),
        (lambda: sslortho.extract_features("x", out="y"), "out='y' must end in .npz"),
        (
            lambda: sslortho.extract_features("x", subset=5),
            "subset=5 has no effect on the test images",
        ),
        (lambda: sslortho.extract_features("x", split="val"), "split"),
        (lambda: sslortho.load_backbone("no/such/run"), "no/such/run"),
        (lambda: sslortho.load_backbone(RESULT), "weights, a TrainingResult, must .* run.folder"),
        (
            lambda: sslortho.knn_eval(RESULT, "digits"),
            "^backbone_from, a TrainingResult, must .* run.backbone$",
        ),
        (
            lambda: sslortho.knn_eval(RESULT.backbone, torch.zeros(8, 3, 8, 8, dtype=torch.uint8)),
            "the data set that was handed over has no test images; give test_data$",
        ),
    ],
)
def test_mistakes_are_value_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_result_shows_where_it_is_and_not_all_of_its_summary():
    assert "runs/x" in repr(RESULT)
    assert "loss" not in repr(RESULT)


def test_a_folder_is_data(tmp_path):
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (32, 32), (50 * i, 90, 0)).save(folder / f"{i}.png")
    options = {**QUIET, "epochs": 1, "batch_size": 4, "pictures": False}
    run = sslortho.supervised(tmp_path / "photos", "basic_cnn", out=tmp_path / "run", **options)
    assert run.summary["config"]["data"] == "path"
    assert run.summary["details"]["classes"] == 2
    assert shlex.split(run.summary["command"])[2:4] == ["--data", str(tmp_path / "photos")]


def test_a_call_leaves_torch_as_it_was(tmp_path, monkeypatch, request):
    # torch's default; a command in this process may have changed it
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    threads, generator = torch.get_num_threads(), torch.get_rng_state()
    torch.use_deterministic_algorithms(True, warn_only=True)
    request.addfinalizer(lambda: torch.use_deterministic_algorithms(False))
    sslortho.supervised(
        out=tmp_path, model="basic_cnn", subset=40, batch_size=20, epochs=1, warmup_epochs=0, threads=1,
        deterministic=True, matmul_precision="medium", trackers="none", pictures=False,
    )  # fmt: skip
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_the_random_state_of_gpus_in_use_is_restored(monkeypatch):
    states = [torch.arange(16), torch.arange(16, 32)]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: list(states))
    restored = []
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", restored.append)
    with pytest.raises(KeyError, match="x"), torch_as_before():
        raise KeyError("x")
    assert restored == [states]


@pytest.mark.gpu
def test_a_call_leaves_the_random_numbers_of_a_gpu():
    torch.cuda.manual_seed_all(3)
    expected = torch.rand(8, device="cuda")
    torch.cuda.manual_seed_all(3)
    with torch_as_before():
        torch.manual_seed(7)
        torch.rand(8, device="cuda")
    assert torch.equal(torch.rand(8, device="cuda"), expected)
