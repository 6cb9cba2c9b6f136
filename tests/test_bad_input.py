"""Every kind of mistake, at every script: one line that says what to do, and exit code 2."""

import json
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
from helpers.option_classes import OPTION_CLASSES
from helpers.script_runs import SCRIPTS, call_script

from sslortho.recipes.command_line import parse_options, user_errors
from sslortho.recipes.tune.options import TuneOptions

TRAINING = ("pretrain", "supervised")
CONFIGURED = {
    "pretrain": [], "supervised": [], "linear_eval": ["--backbone_from", "random", "--backbone", "resnet20"],
    "knn_eval": ["--backbone_from", "random", "--backbone", "resnet20"],
    "embed": ["--backbone_from", "random", "--backbone", "resnet20", "--out", "x.npz"],
    "export": ["--backbone_from", "x", "--out", "y.pt"], "show_views": ["--out", "v.png"],
    "write_beton": ["--data", "digits", "--out", "x.beton"], "reproduce": ["figure8"],
    "tune": ["--config", "CONFIGS/tune_table1.yaml"], "bench_optim": [], "chaos": [],
    "bench_loading": ["--data_dir", "x", "--out", "b.json"],
}  # fmt: skip
"""Scripts that take a configuration, with the options that they cannot do without."""


def run(name, arguments):
    """Exit code and what it wrote on stderr."""
    configs = str(SCRIPTS.parent / "configs")
    done = call_script(name, *(str(a).replace("CONFIGS", configs) for a in arguments))
    return done.returncode, done.stderr


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
def test_an_unknown_option(name):
    arguments = [*CONFIGURED[name], "--debgu", "true"]
    check_one_line(*run(name, arguments), "debgu", "did you mean debug?")


@pytest.mark.parametrize(
    "name", ["compare", "plot_runs", "neighbours", "duplicates", "feature_map", "feature_strip"]
)
def test_an_unknown_option_beside_runs(name):
    check_one_line(*run(name, ["x", "y", "--debgu", "true"][name != "neighbours" :]), "debgu")


def test_an_unknown_option_of_a_rerun(monkeypatch, capsys):
    found = run("reproduce_run", ["x", "--debgu", "true"])
    check_one_line(*found, "debgu", "did you mean debug?")


MISSING = {
    "linear_eval": "backbone_from", "knn_eval": "backbone_from", "export": "backbone_from",
    "embed": "backbone_from", "write_beton": "out", "bench_loading": "data_dir", "compare": "runs",
    "plot_runs": "runs", "neighbours": "features", "duplicates": "source", "feature_map": "features",
    "feature_strip": "run",
}  # fmt: skip


@pytest.mark.parametrize("name", MISSING)
def test_an_option_that_must_be_given(name):
    check_one_line(*run(name, []), MISSING[name])


@pytest.mark.parametrize("name", ["reproduce", "reproduce_run"])
def test_options_before_the_name(name):
    check_one_line(*run(name, ["--out", "x"]), "comes first")


SHAPES = [
    ["--lr"], ["--lr="], ["--lr", "1", "2"], ["--lr", "--epochs", "3"], ["stray"], ["-x"],
    ["--lr.x", "3"], ["--lr", "a\nb"], ["--config"], ["--config", ""], ["--epochs", "9" * 5000],
    ["--betas", "[0.9]", "--optim", "adam"], ["--threads", "[1]"], ["--out", "~no_such_user/x"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", SHAPES, ids=lambda a: " ".join(a)[:20])
def test_a_command_line_of_another_shape(arguments):
    check_one_line(*run("pretrain", arguments))


ODD_YAML = {
    "null": ("knn_k:\nepochs: 3\n", "knn_k: null is no value"),
    "empty": ("", ""),
    "comment": ("# lr: 1\n", ""),
    "number": ("5\n", ""),
    "two documents": ("lr: 1\n---\nlr: 2\n", "another document"),
    "twice": ("lr: 1\nepochs: 3\nlr: 2\n", "lr is given twice"),
    "tab": ("\tlr: 1\n", ""),
    "number for a name": ("1: 2\n", "1"),
    "list for a name": ("? [lr]\n: 2\n", "unhashable"),
    "no such alias": ("lr: *a\n", "alias"),
    "endless alias": ("a: &a [*a]\n", ""),
    "no date": ("out: !!timestamp x\n", ""),
    "unknown tag": ("lr: !thing 1\n", "!thing"),
    "python name": ("lr: !!python/name:os.system\n", "python/name"),
    "whole number for a switch": ("compile: 1\n", "compile"),
    "switch for a number": ("epochs: true\n", "epochs"),
    "fraction": ("epochs: 1.0\n", "epochs"),
    "list for a number": ("lr: [1]\n", "lr"),
    "mapping for a number": ("lr: {a: 1}\n", "lr"),
    "empty mapping": ("optimizer: {}\n", "optimizer: no option is a mapping"),
    "list for a text": ("out:\n  - a\n", "out=- a must be text"),
    "text left out": ("out: #3\n", "quote text"),
    "infinite": ("lr: .inf\n", "lr=inf must be a finite number"),
    "infinite by its size": ("lr: 1e999\n", "lr=inf must be a finite number"),
    "nan in a list": ("optim: adam\nbetas: [0.9, .nan]\n", "betas"),
    "null character": ('out: "a\\0b"\n', "null character"),
    "deep": ("lr: " + "[" * 5000, ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ODD_YAML)
def test_an_odd_file_of_options(kind):
    text, word = ODD_YAML[kind]
    Path("odd.yaml").write_text(text)
    check_one_line(*run("pretrain", ["--config", "odd.yaml"]), word)


YAML = {
    "broken.yaml": (b"lr: [1, 2\n", ""),
    "list.yaml": (b"- lr\n- 1\n", ""),
    "text.yaml": (b"just words\n", ""),
    "unknown.yaml": (b"debgu: true\n", "did you mean debug?"),
    "twice.yaml": (b"debug: true\ndebug: true\n", "debug is given twice"),
    "code.yaml": (b"debug: !!python/object/apply:os.mkdir [ran]\n", ""),
    "binary.yaml": (bytes(range(256)), ""),
    "missing.yaml": (None, "missing.yaml"),
    ".": (None, ""),
}


@pytest.mark.parametrize("file", YAML)
@pytest.mark.parametrize("name", CONFIGURED)
def test_a_bad_file_of_options(name, file, monkeypatch, capsys, tmp_path):
    content, word = YAML[file]
    if content is not None:
        Path(file).write_bytes(content)
    arguments = [*CONFIGURED[name], "--config", file]
    check_one_line(*run(name, arguments), word)
    assert not Path("ran").exists()


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
def test_a_value_out_of_range_or_of_another_type(name, option, value):
    code, errors = run(name, [option, value, "--optim", "lars"])
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
def test_options_that_contradict_each_other_or_the_data(name, arguments, word):
    given = [*arguments, "--epochs", "1", "--warmup_epochs", "0"]
    check_one_line(*run(name, given), word)
    assert not list(Path().glob("runs/*/checkpoints/*"))


@pytest.mark.parametrize("name", ["pretrain", "supervised", "linear_eval", "knn_eval"])
@pytest.mark.parametrize("out", ["a_file", "a_file/below"])
def test_a_file_where_the_run_folder_should_be(name, out):
    Path("a_file").write_text("mine")
    arguments = [*CONFIGURED[name], "--out", out, "--crop_size", "32"]
    check_one_line(*run(name, arguments), "a_file")
    assert Path("a_file").read_text() == "mine"


OUT = {"export": ["--out", "y.pt", "--format", "hub"], "embed": ["--out", "x.npz"]}
"""Files of the commands that cannot do without one."""

WEIGHTS = {
    "nothing.pt": (None, "does not exist"),
    "empty.pt": (b"", "is empty"),
    "page.pt": (b"<html>not found</html>", "is a text"),
    "pointer.pt": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "noise.pt": (bytes(range(256)) * 10, "cannot be read as weights"),
    "noise.safetensors": (bytes(range(256)) * 10, "cannot be read as weights"),
}


@pytest.mark.parametrize("file", WEIGHTS)
@pytest.mark.parametrize("name", ["linear_eval", "knn_eval", "export", "embed"])
def test_weights_that_are_none(name, file):
    content, word = WEIGHTS[file]
    if content is not None:
        Path(file).write_bytes(content)
    check_one_line(*run(name, ["--backbone_from", file, *OUT.get(name, [])]), word, file)


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
def test_mistakes_of_their_own(name, arguments, word):
    check_one_line(*run(name, arguments), word)


def may_be_float(kind):
    return kind is float or any(map(may_be_float, get_args(kind)))


WITH_FRACTIONS = [c for c in OPTION_CLASSES if any(may_be_float(f.type) for f in fields(c))]


@pytest.mark.slow
@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("config", WITH_FRACTIONS)
def test_no_option_of_any_script_takes_a_number_that_is_not_finite(config, value, capsys):
    for field in fields(config):
        if may_be_float(field.type):
            shape = "[{}]" if list[float] in (field.type, *get_args(field.type)) else "{}"
            shape = "[0.5, {}]" if "tuple" in str(field.type) else shape
            with pytest.raises(SystemExit) as stop:
                parse_options(config, [f"--{field.name}={shape.format(value)}"])
            assert stop.value.code == 2
            assert field.name in capsys.readouterr().err


def test_nor_does_a_range_made_in_python():
    with pytest.raises(ValueError, match=r"lr_range=\(0.001, inf\) must be finite numbers"):
        TuneOptions(lr_range=(1e-3, float("inf")))


WITHOUT_EFFECT = [
    ("write_beton", ["--data", "digits", "--out", "x.beton", "--mode", "raw", "--quality", "9"], "quality"),
    ("write_beton", ["--data", "digits", "--out", "x.beton", "--smart_threshold", "2"], "smart_thr"),
    ("write_beton", ["--data", "digits", "--out", "x.beton", "--skip_broken"], "skip_broken"),
    ("write_beton", ["--data", "digits", "--out", "x.beton", "--page_size", "3"], "page_size=3"),
    ("write_beton", ["--out", "x.beton"], "needs data_dir"),
    ("export", ["--backbone_from", "x", "--out", "y.pt", "--format", "hub", "--crop_size", "8"], "crop_size"),
    ("knn_eval", ["--backbone_from", "random"], "needs backbone"),
    ("knn_eval", ["--backbone_from", "x", "--k", "0"], "k=0"),
    ("knn_eval", ["--backbone_from", "x", "--preset", "dino", "--k", "3", "--temperature", "1"], "preset"),
    ("knn_eval", ["--backbone_from", "x", "--subset", "9", "--train_percent", "1"], "both choose"),
    ("linear_eval", ["--backbone_from", "x", "--l2", "1"], "l2=1.0 has no effect"),
    ("linear_eval", ["--backbone_from", "x", "--lr_backbone", "1"], "lr_backbone=1.0 has no effect"),
    ("tune", ["--test", "true"], "test=True must be false"),
    ("tune", ["--search", "lr,rate"], "search='lr,rate' must be some of"),
    ("tune", ["--lr", "0.3"], "give lr_range"),
    ("tune", ["--lr_range", "[1, 0.1]"], "lr_range"),
    ("tune", ["--search", "lr", "--momentum_range", "[0, 0.5]"], "no effect"),
    ("tune", ["--optim", "lars", "--decay_all"], "decay_all=True has no effect"),
    ("embed", ["runs/x"], "out must be given"),
    ("embed", ["runs/x", "--out", "x.csv"], "out='x.csv' must end in .npz"),
    ("show_views", ["--out", "v.bmp"], "--out views.png"),
    ("show_views", ["--count", "0"], "count=0"),
    ("show_views", ["--epoch", "-1"], "epoch"),
    ("reproduce", ["figure8", "--report", "--dry_run"], "no effect on report=True"),
    ("reproduce", ["figure8", "--seeds", "0"], "seeds=0"),
    ("reproduce", ["figure8", "--report", "--out", "nowhere"], "nothing to report"),
    ("bench_loading", ["--data_dir", "x", "--out", "b.txt"], ".json"),
    ("bench_loading", ["--data_dir", "x", "--small", "--quality", "9"], "quality=9 has no effect"),
    ("bench_loading", ["--data_dir", "x", "--pipelines", "nothing"], "nothing"),
    ("bench_optim", ["--device", "gpu5"], "device='gpu5'"),
    ("bench_optim", ["--device", "meta"], "device='meta'"),
    ("bench_optim", ["--models", ""], "models=''"),
    ("bench_optim", ["--rounds", "0"], "rounds=0"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "word"), WITHOUT_EFFECT)
def test_options_that_are_wrong_for_a_script(name, arguments, word):
    check_one_line(*run(name, arguments), word)
    assert not list(Path().iterdir())


READERS = {
    "pretrain": ["--data", "folder"], "supervised": ["--data", "folder"],
    "show_views": ["--data", "folder", "--out", "v.png"],
    "linear_eval": [*CONFIGURED["linear_eval"], "--data", "folder"],
    "knn_eval": [*CONFIGURED["knn_eval"], "--data", "folder"],
    "embed": [*CONFIGURED["embed"], "--data", "folder"],
    "write_beton": ["--data", "folder", "--out", "x.beton"],
    "bench_loading": ["--out", "b.json"],
}  # fmt: skip


@pytest.mark.parametrize("data_dir", ["nowhere", "a_file", "empty"])
@pytest.mark.parametrize("name", READERS)
def test_a_folder_of_data_that_is_none(name, data_dir):
    Path("a_file").write_text("mine")
    Path("empty").mkdir()
    arguments = [*READERS[name], "--data_dir", data_dir]
    check_one_line(*run(name, arguments), data_dir)
    assert not list(Path().glob("**/*.partial"))


@pytest.mark.parametrize(
    ("name", "arguments"), [("tune", ["--data", "folder"]), ("reproduce", ["table3"])]
)
def test_data_that_runs_would_not_find(name, arguments):
    arguments = [*arguments, "--data_dir", "nowhere", "--out", "o"]
    check_one_line(*run(name, arguments), "nowhere")
    assert not Path("o").exists()


def write_run(folder, kind="PretrainOptions"):
    folder = Path(folder)
    folder.mkdir()
    (folder / "config.yaml").write_text(f"# {kind}\nlr: 1.0\n")
    (folder / "summary.json").write_text(json.dumps({"top1": 50.0, "config": {"seed": 0}}))
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')


WRITERS = {
    "write_beton": (["--data", "digits"], "x.beton"),
    "embed": (["random", "--backbone", "basic_cnn", "--threads", "1"], "x.npz"),
    "show_views": (["--count", "1"], "v.png"),
    "plot_runs": (["a_run"], "c.png"),
    "compare": (["a_run"], "c"),
    "bench_loading": (["--data_dir", "."], "b.json"),
    "bench_optim": ([], "b"),
    "reproduce": (["figure8", "--report"], "o"),
    "tune": (["--optim", "sgd"], "o"),
    "chaos": ([], "o"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_above_what_is_to_be_written(name):
    write_run("a_run")
    Path("a_file").write_text("mine")
    arguments, out = WRITERS[name]
    found = run(name, [*arguments, "--out", f"a_file/{out}"])
    check_one_line(*found, "a_file")
    assert Path("a_file").read_text() == "mine"


@pytest.mark.parametrize("name", ["bench_optim", "reproduce", "tune", "chaos"])
def test_a_file_where_the_folder_of_results_should_be(name):
    Path("a_file").write_text("mine")
    found = run(name, [*WRITERS[name][0], "--out", "a_file"])
    check_one_line(*found, "a_file")


@pytest.mark.parametrize("name", ["write_beton", "show_views", "plot_runs", "bench_loading"])
def test_a_folder_where_the_file_should_be(name):
    write_run("a_run")
    arguments, out = WRITERS[name]
    Path(out).mkdir()
    check_one_line(*run(name, [*arguments, "--out", out]), out)
    assert not list(Path().glob("**/*.partial"))


FOLDERS = {
    "empty": ([], "is a folder without backbone.safetensors"),
    "unfinished": (["config.yaml"], "is a run that is not finished"),
    "evaluation": (["config.yaml", "summary.json"], "the run of an evaluation"),
}


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("name", ["linear_eval", "knn_eval", "export", "embed"])
def test_run_folders_without_a_backbone(name, folder):
    files, word = FOLDERS[folder]
    Path(folder).mkdir()
    for file in files:
        Path(folder, file).write_text("{}")
    check_one_line(*run(name, ["--backbone_from", folder, *OUT.get(name, [])]), word)


LISTS = {
    "nowhere.txt": (None, "cannot be read"),
    "binary.txt": (bytes(range(256)), "cannot be read"),
    "empty.txt": (b"\n \n", "names no files"),
    "names.txt": (b"a.png\n", "needs images with file names"),
    ".": (None, "cannot be read"),
}


@pytest.mark.parametrize("file", LISTS)
def test_a_list_of_images_that_is_none(file):
    content, word = LISTS[file]
    if content is not None:
        Path(file).write_bytes(content)
    arguments = [*CONFIGURED["knn_eval"], "--train_list", file]
    check_one_line(*run("knn_eval", arguments), word)


@pytest.mark.parametrize("text", ["[1, 2", "- 1", "", "5"])
@pytest.mark.parametrize("name", ["pretrain", "supervised", "linear_eval", "knn_eval"])
def test_a_run_folder_whose_options_are_damaged(name, text):
    write_run("r")
    Path("r/config.yaml").write_text(text)
    arguments = [*CONFIGURED[name], "--out", "r"]
    check_one_line(*run(name, arguments), "config.yaml", "another --out")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"experiment": "figure8", "asked": 3}'])
def test_a_folder_of_an_experiment_that_is_damaged(text):
    Path("o").mkdir()
    Path("o/asked.json").write_text(text)
    found = run("reproduce", ["figure8", "--report", "--out", "o"])
    check_one_line(*found, "asked.json is damaged")


FAILING = {
    "pretrain": ["--data", "folder", "--data_dir", "nowhere"],
    "supervised": ["--data", "folder", "--data_dir", "nowhere"],
    "linear_eval": ["--backbone_from", "nowhere"], "knn_eval": ["--backbone_from", "nowhere"],
    "export": ["--backbone_from", "nowhere", "--out", "y.pt", "--format", "hub"],
    "embed": ["--backbone_from", "nowhere", "--out", "x.npz"],
    "show_views": ["--data", "folder", "--data_dir", "nowhere"],
    "write_beton": ["--data_dir", "nowhere", "--out", "x.beton"], "reproduce": ["table33"],
    "tune": ["--data", "folder", "--data_dir", "nowhere"], "bench_optim": ["--device", "gpu5"],
    "bench_loading": ["--data_dir", "nowhere"], "chaos": ["--faults", "fire"],
    "compare": ["nowhere"], "plot_runs": ["nowhere"], "reproduce_run": ["nowhere"],
    "neighbours": ["nowhere.npz", "0"], "duplicates": ["nowhere"], "feature_map": ["nowhere.npz"],
    "feature_strip": ["nowhere"],
}  # fmt: skip


@pytest.mark.parametrize("name", FAILING)
def test_debug_shows_the_traceback(name):
    check_one_line(*run(name, FAILING[name]))
    with pytest.raises((ValueError, OSError)):
        run(name, [*FAILING[name], "--debug"])


@pytest.mark.parametrize("option", [["--lr", "nan"], ["--lr", "-1"], ["--rate", "1"]])
def test_debug_shows_that_of_a_wrong_option_too(option):
    with pytest.raises(ValueError, match=option[0].strip("-")):
        run("pretrain", [*option, "--debug"])


@pytest.mark.parametrize("error", [ValueError, OSError, UnicodeError])
def test_messages_of_other_libraries_become_one_line(error, capsys):
    with pytest.raises(SystemExit) as stop, user_errors(debug=False):
        raise error("first\n   second\r\nthird\u2028fourth\n")
    check_one_line(stop.value.code, capsys.readouterr().err, "first second third fourth")


def test_defects_of_ours_keep_their_traceback():
    with pytest.raises(TypeError), user_errors(debug=False):
        raise TypeError("not the user's")
