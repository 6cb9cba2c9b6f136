import re
import subprocess
import sys

import pytest
import yaml

from sslortho.methods.options import METHOD_OPTIONS
from sslortho.options import GROUPS, facts
from sslortho.recipes.command_line import parse_options
from sslortho.recipes.export.options import ExportOptions
from sslortho.recipes.knn_eval.options import KnnEvalOptions
from sslortho.recipes.linear_eval.options import LinearEvalOptions
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.show_views.options import ShowViewsOptions
from sslortho.recipes.supervised.options import SupervisedOptions
from sslortho.recipes.tune.options import TuneOptions
from sslortho.recipes.write_beton.options import WriteBetonOptions
from sslortho.runs.config_file import check_same_run, to_yaml


def test_flags_override_the_file_and_the_file_the_defaults(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("lr: 3\nepochs: 7\nwarmup_epochs: 1\n")
    config = parse_options(PretrainOptions, ["--config", str(path), "--lr", "1e-2"])
    assert (config.lr, config.epochs, config.seed) == (0.01, 7, 0)


def test_a_configuration_survives_its_yaml(tmp_path):
    config = PretrainOptions.of(optim="lars", subset=100, trust_coefficient=0.02, compile=True)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert parse_options(PretrainOptions, ["--config", str(path)]) == config


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--compile"], True),
        (["--compile", "--lr", "1"], True),
        (["--compile", "false"], False),
        (["--compile", "true"], True),
        ([], False),
    ],
)
def test_a_switch_needs_no_value(arguments, expected):
    assert parse_options(PretrainOptions, arguments).compile is expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weight_dcay", "0"], "--weight_dcay 0 .did you mean weight_decay?"),
        (["--backbon", "resnet18"], "did you mean backbone?"),
        (["--learning_rate", "1"], "did you mean lr?"),
        (["--arch", "resnet18"], "did you mean backbone?"),
        (["--lr", "fast"], "lr"),
        (["--data", "mnist"], "digits"),
        (["--epochs", "0", "--warmup_epochs", "0"], "epochs=0 must be 1 or more"),
        (["--projector", "512x512"], "projector='512x512' must be widths joined by dashes"),
        (["--epochs", "13", "--warmup_epochs", "50"], "warmup_epochs=50.0 must be from 0 to 13"),
        (["--seed", "-1"], "seed=-1 must be from 0"),
        (["--knn_temperature", "0"], "knn_temperature=0.0 must be above 0"),
        (["--data_dir", "x"], "data_dir='x' has no effect on data='digits'"),
        (["--loader", "files"], "loader='files' has no effect on data='digits'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_options(PretrainOptions, arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error.replace("(", ".") or message in error
    assert error.count("\n") == 1


def test_an_unknown_key_in_a_file_names_the_nearest(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text("optm: lars\n")
    with pytest.raises(SystemExit):
        parse_options(PretrainOptions, ["--config", str(path)])
    assert "'optm' is not accepted (did you mean optim?)" in capsys.readouterr().err


COMMANDS = [
    ExportOptions, KnnEvalOptions, LinearEvalOptions, SupervisedOptions, TuneOptions,
    *(PretrainOptions.for_method(method) for method in METHOD_OPTIONS), ShowViewsOptions.for_method(),
    WriteBetonOptions,
]  # fmt: skip


def read_help(cls, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_options(cls, ["--help"], "sslortho something")
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("cls", COMMANDS)
def test_every_option_has_a_line_of_help_in_its_group(cls, capsys):
    text = read_help(cls, capsys)
    assert text.startswith("usage: sslortho something [--config FILE]")
    titles = [title for title in GROUPS if f"\n{title}:\n" in text]
    sections = re.split(r"\n(?:" + "|".join(f"{title}:" for title in titles) + r")\n", text)[1:]
    found = {}
    for title, section in zip(titles, sections, strict=True):
        entries = re.findall(
            r"(?:^|\n)  --(\w+) \S+\s+(.*?)(?=\n  --|$)", section.rstrip(), re.DOTALL
        )
        found |= {name: (title, entry) for name, entry in entries}
    assert {name: title for name, (title, _) in found.items()} == {
        name: fact.group for name, fact in facts(cls).items()
    }
    bare = [name for name, (_, entry) in found.items() if len(entry) < 12 or entry[0] == "("]
    assert bare == []


def test_help_gives_types_units_and_defaults_plainly(capsys):
    text = " ".join(read_help(PretrainOptions, capsys).split())
    assert "Optional" not in text
    assert "Literal" not in text
    assert (
        "--crop_size INTEGER Side of the views; of several sizes, of the largest. Default: 32, of smaller "
        "images their own side; of images from 96 pixels on 96, on a GPU 64 from 64 pixels on and 224 from 224 "
        "on; 32 for backbones that are made for small images. (pixels)" in text
    )
    assert "--betas [NUMBER,NUMBER]" in text
    assert "--mixed_precision {auto,no,fp16,bf16}" in text
    assert "--out PATH" in text


def test_seldom_needed_options_come_last_in_their_group(capsys):
    text = read_help(PretrainOptions, capsys)
    for group in GROUPS:
        names = [n for n, fact in facts(PretrainOptions).items() if fact.group == group]
        places = {n: text.index(f"\n  --{n} ") for n in names}
        rare = {n for n in names if facts(PretrainOptions)[n].rare}
        usual = [places[n] for n in names if n not in rare]
        assert all(places[n] > max(usual) for n in rare)


def test_help_imports_nothing_heavy():
    """torch alone takes longer than the two seconds that a help may take."""
    program = (
        "import sys\n"
        "from sslortho.cli import COMMANDS\n"
        "import importlib\n"
        "for name, (module, _) in COMMANDS.items():\n"
        "    try:\n"
        "        importlib.import_module(module).main(['--help'], name)\n"
        "    except SystemExit:\n"
        "        pass\n"
        "heavy = {'torch', 'numba', 'accelerate', 'torchvision', 'timm', 'lightly', 'matplotlib', 'sklearn',\n"
        "         'jsonargparse'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "heavy: []"


@pytest.mark.parametrize("arguments", [["--config", "figure7_small"], ["--config=figure7_small"]])
def test_a_configuration_is_found_by_its_name(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = parse_options(PretrainOptions, [*arguments, "--data_dir", "x"])
    assert options.batch_size == 256


def test_an_unknown_configuration_names_the_nearest(capsys):
    with pytest.raises(SystemExit):
        parse_options(PretrainOptions, ["--config", "figure7_smal"])
    error = capsys.readouterr().err
    assert "config='figure7_smal' is neither a file nor the name" in error
    assert "did you mean figure7_small?" in error


def test_the_run_folder_tells_what_runs():
    assert (
        str(PretrainOptions.of(optim="lars", seed=3).run_folder)
        == "runs/barlow_twins-digits-lars-s3"
    )
    assert str(PretrainOptions.of(out="there").run_folder) == "there"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone_from": "random"}, "needs backbone"),
        ({"subset": 5, "train_percent": 10.0}, "both choose the training images"),
        ({"train_percent": 101.0}, "train_percent=101.0 must be above 0, up to 100"),
        ({"protocol": "lbfgs", "weights": "finetune"}, "no effect on protocol='lbfgs'"),
        ({"protocol": "lbfgs", "views": "centre"}, "views='centre' has no effect"),
        ({"l2": 0.1}, "l2=0.1 has no effect on protocol='sgd'"),
        ({"protocol": "lbfgs", "l2": 0.1, "held_out": 0.1}, "held_out=0.1 has no effect on l2"),
        ({"protocol": "lbfgs", "held_out": 1.0}, "held_out=1.0 must be between 0 and 1"),
        ({"lr_backbone": 0.1}, "lr_backbone=0.1 has no effect on weights='freeze'"),
        ({"crop_size": 0}, "crop_size=0 must be 1 or more"),
    ],
)
def test_mistakes_about_a_linear_evaluation_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LinearEvalOptions(**{"backbone_from": "runs/x", **options})


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        ({}, "runs/linear-digits-x-s0"),
        ({"backbone_from": "runs/lr0.3"}, "runs/linear-digits-lr0.3-s0"),
        ({"backbone_from": "runs/y/backbone.safetensors"}, "runs/linear-digits-y-s0"),
        ({"weights": "finetune", "seed": 2}, "runs/finetune-digits-x-s2"),
        ({"protocol": "lbfgs", "backbone_from": "w/resnet50.pth"}, "runs/lbfgs-digits-resnet50-s0"),
        ({"backbone_from": "random", "backbone": "timm:vit_tiny"},
         "runs/linear-digits-random-timm-vit_tiny-s0"),
    ],
)  # fmt: skip
def test_an_evaluation_is_named_after_its_backbone(options, folder):
    assert str(LinearEvalOptions(**{"backbone_from": "runs/x/", **options}).run_folder) == folder


def test_resuming_checks_the_options_that_the_weights_depend_on(tmp_path):
    check_same_run(PretrainOptions.of(), tmp_path)  # no run there yet
    (tmp_path / "config.yaml").write_text(to_yaml(PretrainOptions.of(lr=0.5)))
    check_same_run(PretrainOptions.of(lr=0.2), tmp_path)  # one that has come to nothing
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000001.pt").touch()
    check_same_run(PretrainOptions.of(lr=0.5, workers=7, keep_last=5), tmp_path)
    with pytest.raises(ValueError, match=r"lr \(0.5 there, 0.2 here\).*another --out"):
        check_same_run(PretrainOptions.of(lr=0.2), tmp_path)


def test_a_run_of_another_kind_is_never_resumed(tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml(LinearEvalOptions(backbone_from="x")))
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(ValueError, match=r"a run of another kind \(linear_eval\)"):
        check_same_run(KnnEvalOptions(backbone_from="x"), tmp_path)
    check_same_run(LinearEvalOptions(backbone_from="x"), tmp_path)


def test_options_of_the_loop_have_no_effect_on_the_fast_probe():
    usual = {"backbone_from": "x", "protocol": "lbfgs"}
    assert LinearEvalOptions(**usual, seed=3, mixed_precision="bf16").without_effect == []
    given = LinearEvalOptions(**usual, optim="adam", lr=7.0, compile=True)
    assert sorted(given.without_effect) == ["compile", "lr", "optim"]
    assert LinearEvalOptions(backbone_from="x", lr=7.0).without_effect == []


def test_a_run_of_another_version_may_know_other_options(tmp_path):
    text = yaml.safe_dump({"lr": PretrainOptions.of().lr, "gone": 1})
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "summary.json").write_text("{}")
    with pytest.warns(UserWarning, match="unknown options: gone"):
        check_same_run(PretrainOptions.of(), tmp_path)


@pytest.mark.parametrize(
    ("headline", "refused"),
    [("# PretrainConfig", False), ("# SupervisedConfig", True), ("", False)],
)
def test_run_folders_of_the_first_version_are_recognised(tmp_path, headline, refused):
    body = to_yaml(PretrainOptions.of()).split("\n", 1)[1]
    (tmp_path / "config.yaml").write_text(f"{headline}\n{body}")
    (tmp_path / "summary.json").write_text("{}")
    if refused:
        with pytest.raises(ValueError, match=r"of another kind \(supervised\)"):
            check_same_run(PretrainOptions.of(), tmp_path)
    else:
        check_same_run(PretrainOptions.of(), tmp_path)


def test_paths_are_expanded_when_read(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    options = parse_options(
        PretrainOptions, ["--out", "~/run", "--data", "folder", "--data_dir", "~/d"]
    )
    assert (options.out, options.data_dir) == ("/home/somebody/run", "/home/somebody/d")
