import re

import numpy as np
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState
from helpers.trainings import optimizer_of, task_of
from PIL import Image

import sslortho
from sslortho.data import TensorLoader, ViewLoader
from sslortho.optim import OPTIMIZERS
from sslortho.recipes.command_line import parse_options
from sslortho.recipes.configs import configs_folder
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.pretrain.resolve import resolve
from sslortho.recipes.pretrain.run import build
from sslortho.recipes.supervised.build import build as build_supervised
from sslortho.recipes.supervised.options import SupervisedOptions


@pytest.fixture(autouse=True)
def fresh_process():
    """Accelerate keeps what the first Accelerator of a process was told."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def names(paths):
    return [path.stem for path in paths]


OTHERS = ("linear", "finetune", "probe", "knn", "tune")
YAMLS = sorted(configs_folder().glob("*.yaml"))
PRETRAININGS = [path for path in YAMLS if path.stem.split("_")[0] not in OTHERS]
MACHINES = sorted((configs_folder() / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", PRETRAININGS, ids=names(PRETRAININGS))
@pytest.mark.parametrize("optim", [None, "orth_lars"], ids=["its own", "orth_lars"])
def test_every_configuration_builds(path, optim):
    other = () if optim is None else ("--optim", optim)
    options = parse_options(PretrainOptions, ["--config", str(path), *other])
    recipe = resolve(options)
    with torch.device("meta"):  # shapes without memory: some of these are large
        task = task_of(recipe)
        optimizer = optimizer_of(recipe, task)
    views = recipe.views
    crop_size = recipe.options.crop_size
    size = (2, 3, crop_size, crop_size)
    features = task.backbone(torch.zeros(size, device="meta"))
    assert task.projector(features).shape == (2, int(options.projector.split("-")[-1]))
    assert len(views) == {"dino": 8, "lejepa": 10, "emp_ssl": 20}.get(options.method, 2)
    assert max(view.crop_size for view in views) == crop_size
    assert type(optimizer) is OPTIMIZERS[optim or options.optim]


TWINS = {"lr": 0.2, "lr_biases": 0.0048, "weight_decay": 1e-6, "lambda_param": 0.0051, "warmup_epochs": 10,
         "projector": "8192-8192-8192", "backbone": "resnet50"}  # fmt: skip
"""Values of facebookresearch/barlowtwins, main.py."""

PUBLISHED = {
    "imagenet_lars_1024": {**TWINS, "optim": "lars", "batch_size": 1024, "epochs": 100},
    "imagenet_lars_2048": {**TWINS, "optim": "lars", "batch_size": 2048, "epochs": 300},
    "imagenet_orth_lars_1024": {**TWINS, "optim": "orth_lars", "batch_size": 1024, "epochs": 100},
    "imagenet_orth_lars_2048": {**TWINS, "optim": "orth_lars", "batch_size": 2048, "epochs": 300},
    # arXiv 2002.05709, section 2.2 and appendix B.1
    "imagenet_simclr": {"lr": 0.3, "batch_size": 4096, "weight_decay": 1e-6, "temperature": 0.1,
                        "projector": "2048-128", "warmup_epochs": 10, "epochs": 100},
    # facebookresearch/vicreg, README; arXiv 2105.04906, section 4.2
    "imagenet_vicreg": {"lr": 0.3, "weight_decay": 1e-6, "warmup_epochs": 10, "epochs": 100,
                        "projector": "8192-8192-8192"},
    # rbalestr-lab/lejepa, scripts/launch_views_ablation.md
    "imagenet_lejepa": {"lr": 0.00025, "weight_decay": 0.05, "batch_size": 512, "lambda_param": 0.05,
                        "optim": "adamw", "epochs": 100},
}  # fmt: skip
"""Values that a configuration has of the recipe that it names."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_configurations_are_the_published_recipes(name):
    path = configs_folder() / f"{name}.yaml"
    options = parse_options(PretrainOptions, ["--config", str(path), "--data_dir", "x"])
    assert {n: getattr(options, n) for n in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("path", MACHINES, ids=names(MACHINES))
def test_every_machine_is_one_that_accelerate_reads(path):
    assert load_config_from_file(str(path)).num_processes >= 1


def built_optimizer(**options):
    recipe = resolve(PretrainOptions.of(backbone="basic_cnn", projector="8-8", **options))
    task = task_of(recipe)
    return task, optimizer_of(recipe, task)


@pytest.mark.parametrize("optim", sorted(set(OPTIMIZERS) - {"muon"}))
def test_every_optimizer_builds_with_rates_for_the_batch_size(optim):
    _, optimizer = built_optimizer(optim=optim, lr=0.1, lr_biases=0.01, batch_size=1024)
    assert type(optimizer) is OPTIMIZERS[optim]
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates.pop("biases and norms") == pytest.approx(0.04)
    assert set(rates.values()) == {0.4}


def test_muon_steps_the_rest_by_adamw_at_its_own_rate():
    task, optimizer = built_optimizer(optim="muon", lr=0.1, adamw_lr=0.002, batch_size=1024)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"orthonormalised weights": 0.4, "biases and norms": 0.002}
    matrices = {id(p) for p in optimizer.param_groups[0]["params"]}
    assert matrices == {id(p) for p in task.parameters() if p.ndim > 1}


BOTH = {"conv", "dense"}


@pytest.mark.parametrize(
    ("optim", "layers", "expected"),
    [
        ("orth_lars", None, {"conv"}),
        ("orth_lars", "conv", {"conv"}),
        ("orth_lars", "all", BOTH),
        ("orth_sgd", None, BOTH),
        ("orth_sgd", "conv", {"conv"}),
        ("orth_adamw", None, BOTH),
    ],
)
def test_orth_lars_orthonormalises_convolutions_alone_unless_told(optim, layers, expected):
    task, optimizer = built_optimizer(optim=optim, orth_layers=layers)
    chosen = {id(p) for g in optimizer.param_groups if g["orth"] for p in g["params"]}
    kinds = {"conv" if p.ndim == 4 else "dense" for p in task.parameters() if id(p) in chosen}
    assert kinds == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optim": "orth_larz"}, "did you mean .?orth_lars"),
        ({"optim": "lars", "polar": "svd"}, "polar='svd' is not an option of optim='lars'"),
        ({"optim": "adam", "momentum": 0.5}, "momentum=0.5 is not an option of optim='adam'"),
        ({"optim": "sgd", "trust_coefficient": 0.1}, "trust_coefficient=0.1 is not an option"),
        ({"optim": "lars", "orth_layers": "all"}, "orth_layers='all' has no effect"),
        ({"optim": "muon", "lr_biases": 0.1}, "lr_biases=0.1 has no effect on .* give adamw_lr"),
        (
            {"optim": "orth_sgd", "adamw_lr": 0.1},
            "adamw_lr=0.1 is not an option of optim='orth_sgd'",
        ),
        ({"optim": "lars", "share": False}, "share=False is not an option of optim='lars'"),
    ],
)
def test_an_option_without_effect_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        built_optimizer(**options)


def test_initial_weights_depend_on_the_seed_alone():
    first = task_of(resolve(PretrainOptions.of(seed=1))).state_dict()
    torch.rand(5)
    again = task_of(resolve(PretrainOptions.of(seed=1, optim="lars"))).state_dict()
    other = task_of(resolve(PretrainOptions.of(seed=2))).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["backbone.conv1.weight"], other["backbone.conv1.weight"])
    backbone = resolve(PretrainOptions.of(seed=1)).backbone.create().state_dict()
    assert all(torch.equal(first[f"backbone.{name}"], backbone[name]) for name in backbone)


def test_small_views_have_no_blur_and_large_ones_the_papers():
    small = resolve(PretrainOptions.of(data="cifar10", data_dir="d", crop_size=32)).views
    large = resolve(PretrainOptions.of(data="folder", data_dir="d", crop_size=224)).views
    digits = resolve(PretrainOptions.of()).views
    assert [view.blur_p for view in small] == [0, 0]
    assert [view.blur_p for view in large] == [1.0, 0.1]
    assert [view.flip_p for view in digits] == [0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 4000}, "batch_size=4000 is larger than the data"),
        ({"batch_size": 100, "accumulation_steps": 3}, "does not divide into accumulation_steps=3"),
        ({"data": "folder"}, "needs data_dir"),
        ({"data": "folder", "data_dir": "/no/such/folder"}, "/no/such/folder.* is no folder"),
        ({"subset": 5000}, "subset=5000 must be from 1 to the 1437 images"),
        ({"batch_size": 4000, "accumulation_steps": 4}, "batch_size=4000 is larger than the data"),
    ],
)
def test_mistakes_about_images_are_found_before_training(options, message):
    with pytest.raises(ValueError, match=message):
        build(PretrainOptions.of(trackers="none", **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixed_precision": "fp16"}, "needs a GPU"),
        ({"backbone": "resnet19"}, "did you mean resnet18"),
        ({"backbone": "timm:resnet19"}, "backbone='timm:resnet19' is not a timm model"),
        ({"stem": "stock"}, "stem='stock' has no effect on backbone='resnet20'"),
        ({"initial_weights": "/no/such/run"}, "/no/such/run"),
        ({"optim": "lars", "polar": "svd"}, "polar='svd' is not an option"),
    ],
)
@pytest.mark.parametrize("command", ["pretrain", "supervised"])
def test_mistakes_are_found_before_images_are_read(command, options, message, monkeypatch):
    def refuse(*given):
        raise AssertionError("images were read")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sslortho.recipes.pretrain.run.load_training_set", refuse)
    monkeypatch.setattr("sslortho.data.labelled.load_training_set", refuse)
    chosen = {"trackers": "none", **options}
    create = {
        "pretrain": lambda: build(PretrainOptions.of(**chosen)),
        "supervised": lambda: build_supervised(SupervisedOptions(**chosen)),
    }[command]
    with pytest.raises(ValueError, match=message):
        create()


def test_small_folders_are_read_into_memory_and_large_images_by_file(tmp_path):
    for side, name, loader in ((32, "small", TensorLoader), (200, "large", ViewLoader)):
        for split in ("train", "val"):
            for label in ("a", "b"):
                folder = tmp_path / name / split / label
                folder.mkdir(parents=True)
                for i in range(4):
                    Image.new("RGB", (side, side), (i, i, i)).save(folder / f"{i}.png")
        options = PretrainOptions.of(
            data="folder", data_dir=str(tmp_path / name), batch_size=4,
            backbone="basic_cnn", projector="8", trackers="none",
        )  # fmt: skip
        train_loader = build(options).training.loader
        assert isinstance(train_loader, loader)
        batch = next(iter(train_loader))
        assert [view.shape for view in batch.views] == [(4, 3, 32, 32)] * 2


def test_an_unknown_optimizer_is_named_whatever_the_images(tmp_path):
    for data in ({}, {"data": "folder", "data_dir": str(tmp_path)}):
        options = PretrainOptions.of(optim="orth_lasr", **data)
        with pytest.raises(
            ValueError, match=r"optim='orth_lasr' is not one of .*did you mean orth_lars"
        ):
            resolve(options)


def test_workers_are_for_images_that_are_decoded():
    options = PretrainOptions.of(workers=3, backbone="basic_cnn", projector="8", trackers="none")
    with pytest.raises(ValueError, match="workers=3 has no effect on data='digits'"):
        build(options)


def test_images_in_memory_are_named_as_the_user_named_them(tmp_path):
    place = tmp_path / "own.npz"
    images = np.zeros((8, 8, 8), np.uint8)
    np.savez(place, images=images)
    few = {"workers": 3, "threads": 1, "trackers": "none", "out": tmp_path / "run"}
    for data, name in ((place, f"data='{place}'"), (images, "the data set that was handed over")):
        with pytest.raises(ValueError, match=re.escape(f"no effect on {name}")) as told:
            sslortho.pretrain(data, "basic_cnn", **few)
        assert "leave it out" in str(told.value)
