"""Every method of pretraining, from its configuration to its figures."""

import dataclasses

import pytest
import torch
from accelerate.state import AcceleratorState
from helpers.ranks import run_on_ranks
from helpers.trainings import drift, same_bits, task_of, train, trainings_of_rank
from torch import nn

from sslortho.methods.options import METHOD_OPTIONS as METHODS
from sslortho.models import create_backbone, load_backbone, read_weights
from sslortho.models.weights.file import BackboneInfo, write_backbone
from sslortho.models.weights.restore import restore_backbone
from sslortho.recipes.command_line import parse_options
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.pretrain.resolve import resolve
from sslortho.recipes.pretrain.run import build
from sslortho.recipes.training import HeldTraining
from sslortho.runs.folder import RunFolder
from sslortho.train.records import read_metrics

POOLING = "timm:test_resnet"  # a tiny network that takes views of several sizes
POOLED = ("dino", "lejepa")
"""Methods whose views have two sizes."""
LONG = (*POOLED, "emp_ssl")
"""Methods of many views, which take longer."""
PROJECTORS = {"simclr": "16-8", "byol": "16-8", "moco_v2": "16-8", "dino": "16-8-16"}
ROUNDING = 0.02
"""Largest drift after 5 steps, as between one and two ranks of Barlow Twins."""


def options_of(name):
    own = {
        "moco_v2": {"queue": 64},
        "dino": {"backbone": POOLING, "subset": 40},
        "lejepa": {"backbone": POOLING, "subset": 40, "slices": 16},
        # of grey crops the first layer's gradient has directions of rounding alone, which orth_lars steps along
        "emp_ssl": {"subset": 40, "optim": "lars"},
    }
    return {
        "method": name,
        "projector": PROJECTORS.get(name, "16-16-16"),
        **own.get(name, {}),
    }


@pytest.fixture(autouse=True)
def fresh_process():
    """Accelerate keeps what the first Accelerator of a process was told."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_an_epoch_of_digits_learns_and_reports_knn(name, tmp_path):
    options = PretrainOptions.of(
        method=name,
        backbone=POOLING if name in POOLED else "basic_cnn",
        subset=256 if name in LONG else None,
        epochs=1,
        batch_size=64,
        threads=1,
        log_every=1,
        evaluate_every=1,
        trackers="none",
        linear_probe=False,
        out=str(tmp_path),
    )
    run = build(options)
    result = HeldTraining(run.training, RunFolder(tmp_path)).run(run.evaluations.online)
    assert result.step == (256 if name in LONG else 1437) // 64
    records = read_metrics(tmp_path / "metrics.jsonl")
    losses = [record["loss"] for record in records if "loss" in record]
    if name not in ("moco_v2", "dino"):  # whose queue and centre begin with nothing to tell apart
        assert min(losses[-5:]) < losses[0]
    before, after = (record["knn_top1"] for record in records if "knn_top1" in record)
    assert before > 50
    assert after > 60  # a collapsed network is right one time in ten
    if name != "barlow_twins":
        assert all(record["spread"] > 0.05 for record in records if "spread" in record)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["moco_v2", "byol", "dino", "lejepa", "emp_ssl"])
def test_a_stopped_run_goes_on_bit_by_bit(name, tmp_path):
    """Teacher, queue, centre, momentum and random directions are as they would have been."""
    options = {**options_of(name), "epochs": 2, "evaluate_every": 1}
    unbroken = train(tmp_path / "unbroken", **options)
    assert train(tmp_path / "broken", stopped=True, **options)["step"] == 1
    assert same_bits(train(tmp_path / "broken", **options), unbroken)


TRAININGS = {name: options_of(name) for name in METHODS if name != "barlow_twins"}
SHARDED = {
    f"{name}, sharded": {**TRAININGS[name], "shard": True}
    for name in ("byol", "moco_v2", "dino", "lejepa", "emp_ssl")
}


@pytest.mark.ranks
@pytest.mark.timeout(900)  # about twenty short trainings
def test_two_ranks_train_as_one(tmp_path):
    trainings = TRAININGS | (SHARDED if torch.__version__ >= "2.7" else {})
    (tmp_path / "ranks").mkdir()
    folder = tmp_path / "ranks"
    results = run_on_ranks(trainings_of_rank, 2, folder, tmp_path, trainings, timeout=500)
    for name, options in TRAININGS.items():
        alone = train(tmp_path / f"{name} alone", **options)
        for variant in (name, f"{name}, sharded"):
            if variant in trainings:
                assert same_bits(results[0][variant], results[1][variant]), variant
                assert drift(results[0][variant], alone) < ROUNDING, variant


def test_a_methods_options_and_defaults_are_pretrainings(tmp_path):
    path = tmp_path / "simclr.yaml"
    path.write_text("method: simclr\ntemperature: 0.2\nlr: 3.0\n")
    config = parse_options(PretrainOptions, ["--config", str(path), "--projector", "32-16"])
    assert (config.method, config.temperature, config.projector) == ("simclr", 0.2, "32-16")
    assert (config.lr, config.usual_lr_biases) == (3.0, 0.3)
    assert str(config.run_folder) == "runs/simclr-digits-orth_lars-s0"
    over = parse_options(PretrainOptions, ["--config", str(path), "--method=moco_v2", "--queue=64"])
    assert (over.method, over.queue, over.temperature) == ("moco_v2", 64, 0.2)
    assert isinstance(over, PretrainOptions)
    flags_first = ["--method", "moco_v2", "--queue", "64", "--config", str(path)]
    assert parse_options(PretrainOptions, flags_first) == over
    written_out = ["--config", "{method: simclr, temperature: 0.2, lr: 3.0}", "--projector=32-16"]
    assert parse_options(PretrainOptions, written_out) == config
    assert type(over).of(method="simclr", lr=3.0, temperature=0.2, projector="32-16") == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "simlcr"], "method='simlcr' is not one of .* (did you mean simclr?)"),
        (["--method", "simclr", "--lambda_param", "1"], "option of --method barlow_twins, lejepa)"),
        (["--method", "byol", "--temperature", "1"], "option of --method simclr, moco_v2)"),
        (["--method", "simclr", "--temperature", "0"], "temperature=0.0 must be above 0"),
        (["--method", "simclr", "--temprature", "1"], "(did you mean temperature?)"),
        (["--temperature", "1"], "unrecognized arguments: --temperature 1"),
        (["--config", "{method: [simclr]}"], "method"),
        (["--views", "simclr_tiny"], "(did you mean simclr"),
    ],
)
def test_an_option_of_another_method_is_a_mistake(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_options(PretrainOptions, arguments)
    error = capsys.readouterr().err
    assert all(part in error for part in message.split(" .* "))
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: PretrainOptions(method="simclr"),
        lambda: dataclasses.replace(PretrainOptions.of(method="simclr"), method="dino"),
    ],
)
def test_a_configuration_without_its_methods_options_is_refused(make):
    with pytest.raises(ValueError, match=r"make them by PretrainOptions\.of"):
        make()


@pytest.mark.parametrize("method", ["simclr", "moco_v2"])
def test_views_that_are_too_many_are_refused(method):
    config = PretrainOptions.of(method=method, views="dino_digits")
    with pytest.raises(ValueError, match="'dino_digits' are 8 of each image"):
        resolve(config)
    assert len(resolve(PretrainOptions.of(method="dino", views="byol_small")).views) == 2


def test_dino_trains_a_vision_transformer_of_timm():
    """On views of two sizes, without batch norm in the projector."""
    config = PretrainOptions.of(
        method="dino", backbone="timm:test_vit", crop_size=112, projector="16-8-16", views="dino"
    )
    task = task_of(resolve(config))
    views = [torch.randn(2, 3, view.crop_size, view.crop_size) for view in resolve(config).views]
    assert {view.shape[-1] for view in views} == {112, 48}
    task(tuple(views), torch.zeros(2))["loss"].backward()
    assert not any(isinstance(module, nn.BatchNorm1d) for module in task.modules())
    assert all(p.grad is not None for p in task.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", METHODS)
def test_a_checkpoint_is_a_file_of_the_backbones_weights(name, tmp_path):
    """For DINO these are the teacher's weights, as `Task.backbone` is the teacher's."""
    trained = train(tmp_path, **options_of(name))
    (path,) = tmp_path.glob("checkpoints/*.pt")
    backbone = create_backbone(options_of(name).get("backbone", "basic_cnn"))
    load_backbone(backbone, read_weights(path))
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, trained["state"][f"backbone.{key}"]), key


def test_a_network_that_does_not_pool_is_refused_where_views_have_several_sizes():
    with pytest.raises(ValueError, match="'basic_cnn' has not as many features of views of 14"):
        task_of(resolve(PretrainOptions.of(method="dino", backbone="basic_cnn")))


VIT = {"backbone": "timm:vit_tiny_patch16_224", "data": "folder", "data_dir": "D"}


@pytest.mark.parametrize(
    ("method", "size", "told"),
    [("dino", 64, "DINO has views of 27"), ("lejepa", 224, "LeJEPA has views of 98")],
)
def test_local_views_that_a_network_does_not_take_are_told_by_what_was_given(method, size, told):
    message = rf"crop_size={size}: {told} pixels too, which backbone='timm:vit_tiny_patch16_224' .*"
    remedy = "choose a crop_size of which all views fit, a backbone that takes any size"
    options = PretrainOptions.of(method=method, crop_size=size, **VIT)
    with pytest.raises(ValueError, match=message + remedy):
        task_of(resolve(options))


@pytest.mark.parametrize(
    ("method", "size", "local", "backbone"),
    [
        ("dino", 224, 96, "timm:vit_tiny_patch16_224"),
        ("lejepa", 256, 112, "timm:vit_tiny_patch16_224"),
        ("dino", 28, 12, "vit_small_32"),
        ("lejepa", 28, 12, "vit_small_32"),
    ],
)
def test_sizes_of_which_all_views_fit_the_patches_of_a_transformer(method, size, local, backbone):
    """Those that docs/methods.md names."""
    options = PretrainOptions.of(method=method, crop_size=size, **{**VIT, "backbone": backbone})
    settings = resolve(options)
    assert {view.crop_size for view in settings.views} == {size, local}
    task_of(settings)


@pytest.mark.parametrize(
    ("backbone", "size"), [("vit_small_32", 28), ("timm:vit_tiny_patch16_224", 112)]
)
def test_a_transformer_of_views_of_several_sizes_is_restored_for_images_of_its_own(
    backbone, size, tmp_path
):
    """The network itself takes images of 32 or 224 pixels alone."""
    info = BackboneInfo(
        backbone=backbone, stem="stock", crop_size=size, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    trained = create_backbone(backbone, any_size=True, seed=0).eval()
    write_backbone(trained, tmp_path / "w.safetensors", info)
    restored = restore_backbone(read_weights(tmp_path / "w.safetensors"))
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(restored.network(images), trained(images))


def test_views_are_the_methods_own_by_size_or_as_named():
    def views(**options):
        return resolve(PretrainOptions.of(method="simclr", **options)).views

    assert [view.brightness for view in views(crop_size=224)] == [0.8, 0.8]
    assert [view.blur_p for view in views(crop_size=224)] == [0.5, 0.5]
    small = views(data="folder", data_dir="d")
    assert [(v.brightness, v.blur_p, v.flip_p) for v in small] == [(0.4, 0, 0.5)] * 2
    assert [(v.brightness, v.flip_p, v.crop_scale[0]) for v in views()] == [(0.4, 0, 0.4)] * 2
    assert [v.solarise_p for v in views(views="vicreg_small")] == [0.1, 0.1]
    sizes = [v.crop_size for v in resolve(PretrainOptions.of(method="dino")).views]
    assert sizes == [32, 32, 14, 14, 14, 14, 14, 14]
