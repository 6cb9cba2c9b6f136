import dataclasses
import re

import pytest
import yaml

from sslortho.runs.config_file import MAY_CHANGE, check_same_run, to_yaml
from loading_bench.options import BenchLoadingOptions
from optim_bench.options import BenchOptimOptions
from sslortho.recipes.export_options import ExportOptions
from sslortho.recipes.linear_eval.options import KnnEvalOptions, LinearEvalOptions
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.show_views_options import ShowViewsOptions
from sslortho.recipes.write_beton_options import WriteBetonOptions
from sslortho.recipes.command_line import parse_config
from sslortho.methods import METHODS


def test_flags_override_the_file_and_the_file_the_defaults(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("lr: 3\nepochs: 7\nwarmup_epochs: 1\n")
    config = parse_config(PretrainOptions, ["--config", str(path), "--lr", "1e-2"])
    assert (config.lr, config.epochs, config.seed) == (0.01, 7, 0)


def test_a_configuration_survives_its_yaml(tmp_path):
    config = PretrainOptions.of(optim="lars", subset=100, trust_coefficient=0.02, compile=True)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert parse_config(PretrainOptions, ["--config", str(path)]) == config


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
    assert parse_config(PretrainOptions, arguments).compile is expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weight_dcay", "0"], "--weight_dcay 0 .did you mean weight_decay?"),
        (["--backbon", "resnet18"], "did you mean backbone?"),
        (["--lr", "fast"], "lr"),
        (["--data", "mnist"], "digits"),
        (["--epochs", "0", "--warmup_epochs", "0"], "epochs=0 must be 1 or more"),
        (["--projector", "512x512"], "projector='512x512' must be widths joined by dashes"),
        (["--warmup_epochs", "50"], "warmup_epochs=50.0 must be from 0 to"),
        (["--seed", "-1"], "seed=-1 must be from 0"),
        (["--knn_temperature", "0"], "knn_temperature=0.0 must be above 0"),
        (["--data_dir", "x"], "data_dir='x' has no effect on data='digits'"),
        (["--loader", "files"], "loader='files' has no effect on data='digits'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_config(PretrainOptions, arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error.replace("(", ".") or message in error
    assert error.count("\n") == 1


def test_an_unknown_key_in_a_file_names_the_nearest(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text("optm: lars\n")
    with pytest.raises(SystemExit):
        parse_config(PretrainOptions, ["--config", str(path)])
    assert "'optm' is not accepted (did you mean optim?)" in capsys.readouterr().err


SCRIPTS = [
    BenchLoadingOptions, BenchOptimOptions, ExportOptions, KnnEvalOptions, LinearEvalOptions,
    *(PretrainOptions.for_method(method) for method in METHODS), ShowViewsOptions, WriteBetonOptions,
]  # fmt: skip


@pytest.mark.parametrize("config", SCRIPTS)
def test_every_option_has_a_line_of_help(config, capsys):
    with pytest.raises(SystemExit):
        parse_config(config, ["--help"])
    text = capsys.readouterr().out.split("\n  --print_config")[1]
    entries = dict(re.findall(r"\n  --(\w+) \S+\s+(.*?)(?=\n  --|$)", text, re.DOTALL))
    missing = [f.name for f in dataclasses.fields(config) if len(entries[f.name]) < 12]
    unexplained = [name for name, entry in entries.items() if entry.startswith("(")]
    assert missing + unexplained == []


def test_the_run_folder_tells_what_runs():
    assert (
        str(PretrainOptions.of(optim="lars", seed=3).run_folder)
        == "runs/barlow_twins-digits-lars-s3"
    )
    assert str(PretrainOptions.of(out="there").run_folder) == "there"


def test_options_that_may_change_exist():
    assert {f.name for f in dataclasses.fields(LinearEvalOptions)} >= MAY_CHANGE


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
    with pytest.raises(ValueError, match=r"a run of another kind \(LinearEvalOptions\)"):
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
