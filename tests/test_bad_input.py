"""Every kind of mistake, at every script: one line that says what to do, and exit code 2."""

import importlib.util
import sys
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

SCRIPTS = Path(__file__).parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))  # where scripts find the folders beside them

TRAINING = ("pretrain", "supervised")
CONFIGURED = {
    "pretrain": [], "supervised": [], "linear_eval": ["--backbone_from", "random", "--backbone", "resnet20"],
    "knn_eval": ["--backbone_from", "random", "--backbone", "resnet20"],
    "export": ["--backbone_from", "x", "--out", "y.pt"], "show_views": ["--out", "v.png"],
    "write_beton": ["--data", "digits", "--out", "x.beton"], "reproduce": ["figure8"],
    "tune": ["--config", "CONFIGS/tune_table1.yaml"], "bench_optim": [], "chaos": [],
    "bench_loading": ["--data_dir", "x", "--out", "b.json"],
}  # fmt: skip
"""Scripts that take a configuration, with the options that they cannot do without."""


def run(name, arguments, monkeypatch, capsys):
    """Exit code and what it wrote on stderr."""
    AcceleratorState._reset_state(reset_partial_state=True)
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    configs = str(SCRIPTS.parent / "configs")
    arguments = [str(a).replace("CONFIGS", configs) for a in arguments]
    monkeypatch.setattr(sys, "argv", [f"scripts/{name}.py", *arguments])
    code = 0
    try:
        module.main()
    except SystemExit as end:
        code = end.code
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    return code, capsys.readouterr().err


def check_one_line(code, errors, *words):
    lines = [line for line in errors.splitlines() if line.strip()]
    assert code == 2, errors
    assert len(lines) == 1, errors
    assert "error:" in lines[0]
    for word in words:
        assert word in lines[0], lines[0]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", CONFIGURED)
def test_an_unknown_option(name, monkeypatch, capsys):
    arguments = [*CONFIGURED[name], "--debgu", "true"]
    check_one_line(*run(name, arguments, monkeypatch, capsys), "debgu", "did you mean debug?")


YAML = {
    "broken.yaml": (b"lr: [1, 2\n", ""),
    "list.yaml": (b"- lr\n- 1\n", ""),
    "text.yaml": (b"just words\n", ""),
    "unknown.yaml": (b"debgu: true\n", "did you mean debug?"),
    "code.yaml": (b"debug: !!python/object/apply:os.mkdir [ran]\n", ""),
    "binary.yaml": (bytes(range(256)), ""),
    "missing.yaml": (None, ""),
}


@pytest.mark.parametrize("file", YAML)
@pytest.mark.parametrize("name", ["pretrain", "supervised", "linear_eval", "write_beton", "tune"])
def test_a_bad_file_of_options(name, file, monkeypatch, capsys, tmp_path):
    content, word = YAML[file]
    if content is not None:
        Path(file).write_bytes(content)
    arguments = [*CONFIGURED[name], "--config", file]
    check_one_line(*run(name, arguments, monkeypatch, capsys), word)
    assert not Path("ran").exists()


def test_a_folder_in_place_of_a_file_of_options(monkeypatch, capsys, tmp_path):
    check_one_line(*run("pretrain", ["--config", tmp_path], monkeypatch, capsys))


NUMBERS = [
    ("--lr", "fast"), ("--lr", "nan"), ("--lr", "inf"), ("--lr", "-1"), ("--weight_decay", "nan"),
    ("--weight_decay", "-0.1"), ("--momentum", "1"), ("--momentum", "nan"), ("--epochs", "0"),
    ("--epochs", "1.5"), ("--batch_size", "0"), ("--batch_size", "-8"), ("--seed", "-1"),
    ("--seed", "4294967296"), ("--warmup_epochs", "nan"), ("--warmup_epochs", "-1"),
    ("--warmup_epochs", "1000"), ("--log_every", "0"), ("--keep_last", "0"), ("--threads", "0"),
    ("--workers", "-1"), ("--subset", "0"), ("--rank_timeout", "0"), ("--rank_timeout", "nan"),
    ("--accumulation_steps", "0"), ("--max_bad_steps", "0"), ("--trust_coefficient", "nan"),
    ("--mixed_precision", "fp8"), ("--data", "mnist"), ("--compile", "perhaps"),
]  # fmt: skip


@pytest.mark.parametrize(("option", "value"), NUMBERS)
@pytest.mark.parametrize("name", TRAINING)
def test_a_value_out_of_range_or_of_another_type(name, option, value, monkeypatch, capsys):
    code, errors = run(name, [option, value, "--optim", "lars"], monkeypatch, capsys)
    check_one_line(code, errors, option[2:])
    assert not Path("runs").exists()


CONTRADICTIONS = [
    (["--data_dir", "x"], "data='digits'"),
    (["--loader", "files"], "data='digits'"),
    (["--cache", "os"], "data='digits'"),
    (["--follow_links", "true"], "data='digits'"),
    (["--optim", "sgd", "--orth_layers", "conv"], "orth_layers"),
    (["--optim", "sgd", "--log_gradients"], "log_gradients"),
    (["--optim", "adam", "--momentum", "0.9"], "betas"),
    (["--optim", "sgd", "--polar", "svd"], "polar"),
    (["--optim", "lrs"], "lars"),
    (["--optim", "sgd", "--nesterov", "true", "--momentum", "0"], "nesterov"),
    (["--backbone", "resnet21"], "resnet20"),
    (["--backbone", "timm:resnet5000"], "timm"),
    (["--batch_size", "5000"], "batch_size"),
    (["--subset", "5000"], "subset"),
    (["--mixed_precision", "fp16"], "needs a GPU"),
    (["--trackers", "nothing"], "trackers"),
    (["--accumulation_steps", "3"], "accumulation_steps"),
    (["--shard"], "one rank"),
    (["--shard", "--compile"], "compile"),
    (["--data", "folder"], "data_dir"),
    (["--data", "folder", "--data_dir", "nowhere"], "is no folder"),
    (["--data", "beton", "--data_dir", "nowhere"], "train.beton"),
    (["--data", "cifar10"], "data_dir"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "word"), CONTRADICTIONS)
@pytest.mark.parametrize("name", TRAINING)
def test_options_that_contradict_each_other_or_the_data(name, arguments, word, monkeypatch, capsys):
    given = [*arguments, "--epochs", "1", "--warmup_epochs", "0"]
    check_one_line(*run(name, given, monkeypatch, capsys), word)
    assert not list(Path().glob("runs/*/checkpoints/*"))


@pytest.mark.parametrize("name", ["pretrain", "supervised", "linear_eval", "knn_eval"])
@pytest.mark.parametrize("out", ["a_file", "a_file/below"])
def test_a_file_where_the_run_folder_should_be(name, out, monkeypatch, capsys):
    Path("a_file").write_text("mine")
    arguments = [*CONFIGURED[name], "--out", out, "--crop_size", "32"]
    check_one_line(*run(name, arguments, monkeypatch, capsys), "a_file")
    assert Path("a_file").read_text() == "mine"


WEIGHTS = {
    "nothing.pt": (None, "does not exist"),
    "empty.pt": (b"", "is empty"),
    "page.pt": (b"<html>not found</html>", "is a text"),
    "pointer.pt": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "noise.pt": (bytes(range(256)) * 10, "cannot be read as weights"),
    "noise.safetensors": (bytes(range(256)) * 10, "cannot be read as weights"),
}


@pytest.mark.parametrize("file", WEIGHTS)
@pytest.mark.parametrize("name", ["linear_eval", "knn_eval", "export"])
def test_weights_that_are_none(name, file, monkeypatch, capsys):
    content, word = WEIGHTS[file]
    if content is not None:
        Path(file).write_bytes(content)
    out = ["--out", "y.pt", "--format", "hub"] if name == "export" else []
    check_one_line(*run(name, ["--backbone_from", file, *out], monkeypatch, capsys), word, file)


OTHERS = [
    ("compare", ["nowhere"], "nowhere"),
    ("plot_runs", ["nowhere", "--out", "x.png"], "nowhere"),
    ("reproduce_run", ["nowhere"], "nowhere"),
    ("reproduce", ["table33"], "table3"),
    ("reproduce", ["figure8", "--only", "resnet21", "--dry_run"], "resnet21"),
    ("chaos", ["--faults", "fire"], "fire"),
    ("chaos", ["--minutes", "0"], "minutes"),
    ("chaos", ["--minutes", "nan"], "minutes"),
    ("write_beton", ["--data", "folder", "--data_dir", "nowhere", "--out", "x.beton"], "nowhere"),
    ("write_beton", ["--data", "digits", "--out", "x.bin"], ".beton"),
    ("export", ["--backbone_from", "x", "--out", "y.pt", "--format", "tf"], "format"),
    ("bench_optim", ["--models", "resnet5000"], "resnet5000"),
    ("bench_loading", ["--data_dir", "nowhere", "--out", "b.json"], "nowhere"),
]


@pytest.mark.parametrize(("name", "arguments", "word"), OTHERS)
def test_mistakes_of_their_own(name, arguments, word, monkeypatch, capsys):
    check_one_line(*run(name, arguments, monkeypatch, capsys), word)


@pytest.mark.parametrize("name", ["pretrain", "supervised"])
def test_debug_shows_the_traceback(name, monkeypatch, capsys):
    arguments = ["--data", "folder", "--data_dir", "nowhere", "--debug"]
    with pytest.raises(ValueError, match="is no folder"):
        run(name, arguments, monkeypatch, capsys)
