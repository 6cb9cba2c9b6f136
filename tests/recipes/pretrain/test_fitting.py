"""Options of pretraining that are left out: the digits' own, or fitted to the data."""

import json
import os
import signal

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from torchvision.models import VisionTransformer

import sslortho
from sslortho.methods.options import METHOD_OPTIONS
from sslortho.models import BackboneInfo, create_backbone, write_backbone
from sslortho.models.backbones import _facts, required_size_of
from sslortho.models.network_facts import required_size
from sslortho.optim import OPTIMIZERS
from sslortho.options import GIVEN
from sslortho.recipes.configs import configs_folder
from sslortho.recipes.fitted import fit_batch
from sslortho.recipes.given import NOTHING, Given
from sslortho.recipes.pretrain.fitting import (
    WORK_ON_CPU,
    Machine,
    fit_crop,
    fit_options,
    fit_precision,
)
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.pretrain.resolve import find_machine, resolve
from sslortho.runs.config_file import check_same_run, keep_fitted
from sslortho.runs.status import RunStoppedError
from sslortho.train.trainer import Trainer

FOLDER = {"data": "folder", "data_dir": "d"}
GPU = Machine(gpu=True, bf16=True)


def values(options, images, machine=None):
    return {name: c.value for name, c in fit_options(options, images, machine).items()}


@pytest.mark.parametrize("optim", ["orth_lars", "lars", "adamw"])
@pytest.mark.parametrize("machine", [None, GPU])
def test_the_digits_have_what_they_always_had(optim, machine):
    """As the dataclass had it before options were fitted, but for fewer evaluations, and AdamW's rate."""
    layers = {"orth_layers": "conv"} if optim == "orth_lars" else {}
    lr = 0.003 if optim == "adamw" else 6.0
    assert values(PretrainOptions.of(optim=optim), 1437, machine) == {
        "lr": lr, "batch_size": 128, "epochs": 13, "warmup_epochs": 1, "evaluate_every": 4,
        "mixed_precision": "no", "lr_biases": 0.003 if optim == "adamw" else 0.0048, **layers,
    }  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {"optim": "muon"},
        {"optim": "orth_sgd", "method": "simclr"},
        {"optim": "orth_lars", "momentum": 0},
        {"optim": "sgd", "method": "byol"},
    ],
)
def test_the_digits_own_rate_is_for_lars_alone(options):
    """13 epochs of 11 steps; any other images at that length have the same rate."""
    digits = fit_options(PretrainOptions.of(**options), 1437)["lr"]
    other = PretrainOptions.of(**options, **FOLDER, batch_size=128, epochs=13)
    assert digits == fit_options(other, 1437)["lr"]
    assert digits.value < 6 or options["optim"] == "orth_lars"


def test_before_images_are_read_only_sure_mistakes_are_found():
    options = PretrainOptions.of(**FOLDER, warmup_epochs=150, accumulation_steps=32)
    assert resolve(options).options.epochs == 200
    with pytest.raises(ValueError, match="warmup_epochs=150 must be from 0 to 1"):
        resolve(options, images=1_000_000)
    with pytest.raises(ValueError, match="warmup_epochs=201 must be from 0 to 200"):
        resolve(PretrainOptions.of(**FOLDER, warmup_epochs=201))


def test_nothing_of_the_digits_reaches_other_images():
    found = values(PretrainOptions.of(**FOLDER, batch_size=2048, epochs=300), 1_281_167, GPU)
    assert found == {
        "lr": 0.2,
        "lr_biases": 0.0048,
        "warmup_epochs": 10,
        "evaluate_every": 30,
        "mixed_precision": "bf16",
        "orth_layers": "conv",
    }


@pytest.mark.parametrize(
    ("epochs", "warmup", "every"), [(1, 0.1, 1), (18, 1.8, 2), (100, 10, 10), (1000, 10, 100)]
)
def test_warm_up_and_evaluations_fit_the_length(epochs, warmup, every):
    found = values(PretrainOptions.of(**FOLDER, epochs=epochs), 10_000)
    assert found["warmup_epochs"] == pytest.approx(warmup)
    assert found["evaluate_every"] == every


def test_the_reason_for_the_evaluations_is_true_of_their_number():
    for epochs in (1, 9, 14, 18, 100):
        choice = fit_options(PretrainOptions.of(**FOLDER, epochs=epochs), 10_000)["evaluate_every"]
        if choice.value == 1:
            assert choice.reason == "after each epoch"
        else:
            assert choice.reason == "about 10 evaluations on the way"
            assert 8 <= epochs // choice.value <= 12


@pytest.mark.parametrize("epochs", [1, 2, 5, 13, 40, 90])
@pytest.mark.parametrize("images", [500, 1437, 1797, 4000])
def test_evaluations_of_a_short_run_cost_less_than_a_hundredth_of_it(images, epochs):
    """In passes of a view through the network; a training step's backward costs as two forward passes."""
    options = PretrainOptions.of(**FOLDER, epochs=epochs)
    choice = fit_options(options, images)["evaluate_every"]
    batch = values(options, images)["batch_size"]
    training = epochs * (images // batch) * batch * 2 * 3
    evaluations = 1 + -(-epochs // choice.value)
    least = evaluations == 2  # before the first step, and at the end
    assert evaluations * 64 * 2 < 0.01 * training or least
    assert 1 <= choice.value <= epochs


@pytest.mark.parametrize(
    ("images", "machine", "epochs"),
    [
        (10_000, None, 18),  # configs/figure7_small.yaml
        (50_000, GPU, 200),  # configs/cifar10.yaml
        (1_281_167, GPU, 100),  # configs/imagenet_lars_1024.yaml
        (80, None, 200),
        (1_281_167, None, 1),
    ],
)
def test_the_length_fits_the_data_and_the_device(images, machine, epochs):
    assert values(PretrainOptions.of(**FOLDER), images, machine)["epochs"] == epochs


@pytest.mark.parametrize(
    ("method", "views", "epochs"), [("barlow_twins", 2, 20), ("emp_ssl", 20, 2)]
)
def test_a_large_network_sees_fewer_images_on_a_cpu(method, views, epochs):
    """A ResNet-18 has 1.814 billion multiplications at 224 pixels (torchvision's table of weights)."""
    options = PretrainOptions.of(**FOLDER, method=method, backbone="resnet18", crop_size=224)
    found = resolve(options, images=550)
    seen = WORK_ON_CPU / (views * 1.814e9)
    assert found.options.epochs == round(seen / 550) == epochs
    assert f"{views * 1.814:.2g} billion" in found.chosen["epochs"].reason
    assert resolve(options, images=550, machine=GPU).options.epochs == 200
    small = PretrainOptions.of(**FOLDER, backbone="resnet20")
    assert resolve(small, images=10_000).options.epochs == 18  # as without the limit


@pytest.mark.parametrize("given", [{}, {**FOLDER, "epochs": 3}])
def test_nothing_is_counted_where_the_length_is_known(monkeypatch, given):
    def count(backbone, crop_size):
        raise AssertionError("counted in vain")

    monkeypatch.setattr("sslortho.recipes.pretrain.resolve.count_multiplications", count)
    resolve(PretrainOptions.of(**given), images=1437)
    with pytest.raises(AssertionError, match="in vain"):
        resolve(PretrainOptions.of(**FOLDER), images=1437)


@pytest.mark.parametrize(
    ("machine", "precision"),
    [
        (Machine(), "no"),
        (Machine(bf16=True), "bf16"),
        (Machine(gpu=True), "no"),
        (GPU, "bf16"),
        (Machine(launcher_precision="bf16"), "bf16"),
    ],
)
def test_precision_follows_from_the_machine(machine, precision):
    assert fit_precision(PretrainOptions.of(**FOLDER), machine).value == precision
    assert fit_precision(PretrainOptions.of(), machine).value == "no"


@pytest.mark.parametrize(
    ("usual", "images", "batch"),
    [(128, 1437, 128), (128, 128, 128), (128, 127, 16), (256, 160, 32), (128, 3, 2)],
)
def test_a_batch_fits_the_images(usual, images, batch):
    assert fit_batch(usual, images).value == batch


@pytest.mark.parametrize(("images", "batch"), [(512, 128), (511, 64), (200, 32), (128, 32), (5, 2)])
def test_few_images_of_ones_own_have_several_steps_an_epoch(images, batch):
    found = fit_options(PretrainOptions.of(**FOLDER), images)["batch_size"].value
    assert found == batch
    assert images < 8 or images // found >= 4


@pytest.mark.parametrize(
    ("side", "crop"),
    [
        (1, 8),
        (8, 8),
        (9, 16),
        (16, 16),
        (17, 24),
        (24, 24),
        (25, 32),
        (28, 32),
        (96, 32),
        (500, 32),
        (None, 32),
    ],
)
def test_views_of_small_images_are_as_small(side, crop):
    own = PretrainOptions.of(**FOLDER)
    assert fit_crop(own, side).value == crop
    assert fit_crop(PretrainOptions.of(), side).value == 32  # the digits' own
    recipe = resolve(own, images=100, side=side)
    assert (recipe.view_sizes, recipe.chosen["crop_size"].value) == ({crop}, crop)
    given = resolve(PretrainOptions.of(**FOLDER, crop_size=48), images=100, side=side)
    assert given.view_sizes == {48}
    assert "crop_size" not in given.chosen


@pytest.mark.parametrize(
    ("machine", "side", "crop"),
    [
        (None, 20, 24),
        (None, 95, 32),
        (None, 96, 96),
        (None, 4000, 96),
        (GPU, 40, 32),
        (GPU, 63, 32),
        (GPU, 64, 64),
        (GPU, 95, 64),
        (GPU, 223, 96),
        (GPU, 224, 224),
        (GPU, None, 32),
    ],
)
def test_views_of_photographs_are_larger_but_for_networks_of_small_images(machine, side, crop):
    def sizes(images=100, given=NOTHING, **options):
        options = PretrainOptions.of(**FOLDER, **options, epochs=1)
        return resolve(options, given, images=images, machine=machine, side=side).view_sizes

    small = min(crop, 32)
    assert sizes(backbone="resnet18") == {crop}
    assert sizes(backbone="resnet18", stem="small") == {small}
    assert sizes(backbone="timm:resnet18") == {crop}
    assert sizes(backbone=GIVEN, given=Given(backbone=torch.nn.Conv2d(3, 4, 3))) == {crop}
    for name in ("basic_cnn", "resnet20"):
        assert sizes(backbone=name) == {small}


@pytest.mark.parametrize("machine", [None, GPU])
@pytest.mark.parametrize("side", [None, 20, 4000])
def test_a_network_of_one_size_gets_views_of_it(machine, side):
    """The sizes in the names of timm's, of arXiv 2010.11929's for torchvision's, and in our docstring."""
    vit = VisionTransformer(
        image_size=64, patch_size=32, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=16
    )
    for name, size in (("timm:vit_tiny_patch16_224", 224), ("vit_b_16", 224), ("vit_small_32", 32)):
        options = PretrainOptions.of(**FOLDER, backbone=name, epochs=1)
        recipe = resolve(options, images=100, machine=machine, side=side)
        assert recipe.view_sizes == {size}, name
        if size == 224 and (machine, side) != (GPU, 4000):
            assert recipe.chosen["crop_size"].reason == f"the only size that {name} takes"
    options = PretrainOptions.of(**FOLDER, backbone=GIVEN, epochs=1)
    recipe = resolve(options, Given(backbone=vit), images=100, machine=machine, side=side)
    assert recipe.view_sizes == {64}
    assert recipe.chosen["crop_size"].reason == "the only size that VisionTransformer takes"


def test_views_of_several_sizes_are_for_networks_of_any():
    """timm's vision transformers interpolate their positions then."""
    options = PretrainOptions.of(
        **FOLDER, method="dino", backbone="timm:vit_tiny_patch16_224", epochs=1
    )
    assert max(resolve(options, images=100, side=4000).view_sizes) == 96


@pytest.mark.parametrize(
    "name", ["timm:test_vit", "timm:test_resnet", "vit_small_32", "resnet18", "basic_cnn"]
)
def test_the_size_of_a_backbone_by_name_is_that_of_the_network(name):
    _facts.cache_clear()
    state = torch.get_rng_state()
    found = required_size_of(name)
    assert torch.equal(torch.get_rng_state(), state)
    assert found == required_size(create_backbone(name))


def test_a_small_stem_of_initial_weights_keeps_small_views(tmp_path):
    for stem, crop in (("small", 32), ("stock", 96)):
        backbone = create_backbone("resnet18", stem)
        info = BackboneInfo(
            backbone="resnet18", stem=stem, crop_size=32, mean=(0.5,) * 3, std=(0.5,) * 3
        )
        write_backbone(backbone, tmp_path / "w.safetensors", info)
        options = PretrainOptions.of(
            **FOLDER, backbone="resnet18", initial_weights=str(tmp_path / "w.safetensors"), epochs=1
        )
        recipe = resolve(options, images=100, side=300)
        assert recipe.backbone.stem == stem
        assert recipe.view_sizes == {crop}


def test_a_network_whose_work_torch_cannot_count_is_trained_as_a_small_one():
    """Its operators are the user's own: torch counts 0 multiplications."""
    uncounted = fit_options(PretrainOptions.of(**FOLDER), 10_000, None, 0.0)
    assert uncounted == fit_options(PretrainOptions.of(**FOLDER), 10_000)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"epochs": 5}, r"epochs \(20 there, 5 here\)"),
        ({"accumulation_steps": 3}, r"accumulation_steps \(1 there, 3 here\)"),
    ],
)
def test_what_is_given_otherwise_is_named_and_no_option_that_nobody_gave(tmp_path, given, words):
    """5 epochs are fewer than the stored warm-up, and 3 parts do not divide the stored batch."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/step-1.pt").touch()
    stored = {"epochs": 20, "warmup_epochs": 10.0, "batch_size": 128, "accumulation_steps": 1}
    (tmp_path / "config.yaml").write_text("# sslortho pretrain\n" + yaml.safe_dump(stored))
    with pytest.raises(ValueError, match=f"holds a run with other options: {words}; give"):
        sslortho.pretrain("digits", out=tmp_path, threads=1, **given)


BIASES = {
    # arXiv 2002.05709, section 2.2: 0.3; facebookresearch/vicreg, deepmind's BYOL and barlowtwins; of SGD the
    # papers' rates of all parameters
    "barlow_twins": 0.0048, "simclr": 0.3, "vicreg": 0.2, "byol": 0.2, "simsiam": 0.05, "moco_v2": 0.03,
    "dino": 0.05, "lejepa": 0.5, "emp_ssl": 0.05,
}  # fmt: skip


@pytest.mark.parametrize("method", METHOD_OPTIONS)
@pytest.mark.parametrize("optim", sorted(OPTIMIZERS))
def test_biases_have_a_rate_that_their_optimizer_bears(method, optim):
    options = PretrainOptions.of(**FOLDER, method=method, optim=optim, epochs=9)
    recipe = resolve(options, images=10_000)
    rate = recipe.options.lr_biases
    if optim == "muon":  # AdamW's own, adamw_lr
        assert (rate, recipe.lr_biases) == (None, None)
        assert "lr_biases" not in recipe.chosen
    elif "adam" in optim:  # torch's default, to its triple: docs/rates.md, configs/paper/order.yaml
        assert 0.001 <= rate <= 0.003
        if optim in ("adam", "adamw"):
            assert recipe.chosen["lr_biases"] == recipe.chosen["lr"]
    else:
        assert rate == BIASES[method]
        assert recipe.lr_biases == rate * 128 / 256


@pytest.mark.parametrize("config", ["imagenet_lejepa", "cifar10_lejepa"])
def test_biases_of_adam_are_stepped_as_the_authors_of_lejepa_do(config):
    """They have one rate for all parameters, which the configurations state twice."""
    given = yaml.safe_load((configs_folder() / f"{config}.yaml").read_text())
    stated = given.pop("lr_biases")
    options = PretrainOptions.of(**{**given, "data": "folder", "data_dir": "d"})
    assert resolve(options, images=50_000).options.lr_biases == stated
    del given["lr"]
    longer = PretrainOptions.of(**{**given, "data": "folder", "data_dir": "d"})
    recipe = resolve(longer, images=1_281_167 if config.startswith("imagenet") else 50_000)
    assert recipe.options.lr_biases == recipe.options.lr
    if config.startswith("imagenet"):
        assert recipe.options.lr_biases == stated


def test_a_rate_of_biases_that_is_given_is_kept():
    for optim in ("adamw", "orth_adamw", "orth_lars"):
        recipe = resolve(
            PretrainOptions.of(**FOLDER, optim=optim, lr_biases=0.07, epochs=9), images=99
        )
        assert recipe.options.lr_biases == 0.07
        assert "lr_biases" not in recipe.chosen


@pytest.mark.parametrize(("optim", "stored"), [("adamw", 0.3), ("muon", 0.3), ("orth_lars", 0.3)])
def test_a_folder_of_an_older_version_keeps_its_rate_of_biases(tmp_path, optim, stored):
    """They wrote the method's own into config.yaml, whatever the optimizer."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/step-1.pt").touch()
    (tmp_path / "config.yaml").write_text(f"method: simclr\noptim: {optim}\nlr_biases: {stored}\n")
    options = keep_fitted(PretrainOptions.of(method="simclr", optim=optim), tmp_path)
    assert options.lr_biases == options.fixed()["lr_biases"] == stored
    check_same_run(options, tmp_path)


def test_a_chosen_batch_that_does_not_divide_is_an_error():
    with pytest.raises(
        ValueError, match="batch_size=128 does not divide into accumulation_steps=3"
    ):
        resolve(PretrainOptions.of(accumulation_steps=3))


def test_what_is_given_is_kept_and_not_listed():
    options = PretrainOptions.of(**FOLDER, lr=3.0, epochs=7, warmup_epochs=2.0, batch_size=64)
    recipe = resolve(options, images=10_000)
    assert (recipe.options.lr, recipe.options.epochs) == (3.0, 7)
    assert set(recipe.chosen) == {
        "crop_size", "evaluate_every", "mixed_precision", "lr_biases", "orth_layers",
    }  # fmt: skip
    assert recipe.optimizer.lr == pytest.approx(3.0 * 64 / 256)


@pytest.mark.parametrize(
    ("network", "precision"),
    [
        ("resnet18", "bf16"),
        ("timm:test_vit", "bf16"),
        ("timm:mobilenetv3_small_050", "no"),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "bf16"),
        (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "no"),
    ],
)
def test_a_cpu_with_bf16_uses_it_unless_convolutions_are_depthwise(network, precision):
    """benchmarks/bench_precision.py: a MobileNet takes twice as long in bf16."""
    given = Given(backbone=network) if isinstance(network, nn.Module) else NOTHING
    name = network if given is NOTHING else GIVEN
    options = PretrainOptions.of(**FOLDER, backbone=name, epochs=1, optim="orth_lars")
    recipe = resolve(options, given, images=100, machine=Machine(bf16=True))
    assert recipe.options.mixed_precision == precision


@pytest.mark.parametrize(
    ("optimizer", "precision"),
    [
        ({"optim": "orth_lars"}, "bf16"),
        ({"optim": "lars"}, "bf16"),
        ({"optim": "adamw"}, "bf16"),
        ({"optim": "norm_sgd"}, "bf16"),
        ({"optim": "orth_sgd", "orth_layers": "conv"}, "bf16"),
        ({"optim": "orth_sgd"}, "no"),
        ({"optim": "orth_lars", "orth_layers": "all"}, "no"),
        ({"optim": "muon"}, "no"),
    ],
)
def test_a_cpu_orthonormalises_dense_layers_in_float32(optimizer, precision):
    """Gradients that bf16 rounds have full rank: 345 in place of 80 milliseconds a step of fast_cifar10."""
    options = PretrainOptions.of(**FOLDER, **optimizer)
    chosen = fit_options(options, 1000, Machine(bf16=True))
    assert chosen["mixed_precision"].value == precision
    assert fit_options(options, 1000, GPU)["mixed_precision"].value == "bf16"


@pytest.mark.parametrize("known", [{"avx512_bf16": True}, {"avx512_bf16": False}, {}])
def test_a_cpu_says_whether_it_has_bf16(known, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert find_machine().bf16 == known.get("avx512_bf16", False)
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # torch 2.6
    assert not find_machine().bf16


def test_an_accelerator_of_the_callers_own_decides_the_precision(monkeypatch):
    """Accelerate's state is one for the process, and refuses another precision."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    for theirs, bf16, launcher in ((None, True, "no"), ("no", False, "no"), ("bf16", True, "bf16")):
        monkeypatch.setattr(
            "sslortho.recipes.pretrain.resolve.precision_of_caller", lambda theirs=theirs: theirs
        )
        assert (find_machine().bf16, find_machine().launcher_precision) == (bf16, launcher)


def test_the_precision_auto_is_that_of_who_gives_none():
    asked, silent = (PretrainOptions.of(**FOLDER, **o) for o in ({"mixed_precision": "auto"}, {}))
    assert asked == silent
    for machine, expected in ((Machine(), "no"), (Machine(gpu=True, bf16=True), "bf16")):
        recipe = resolve(asked, images=10_000, machine=machine)
        assert recipe.options.mixed_precision == expected


SMALL = {
    "model": "basic_cnn", "projector": "16-16", "threads": 1, "trackers": "none", "epochs": 2,
    "linear_probe": False, "log_every": 1,
}  # fmt: skip


@pytest.fixture
def photos(tmp_path):
    """Folder of 40 unlabelled images."""
    numbers = np.random.default_rng(0)
    (tmp_path / "photos/train").mkdir(parents=True)
    for i in range(40):
        pixels = numbers.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/train/{i:02}.png")
    return tmp_path / "photos"


def read_config(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


@pytest.mark.slow
def test_a_run_records_what_was_chosen_and_resumes_with_it(photos, tmp_path, monkeypatch):
    whole = sslortho.pretrain(photos, out=tmp_path / "whole", **SMALL)
    chosen = whole.summary["chosen"]
    assert chosen["batch_size"]["value"] == 8
    assert chosen["lr"]["value"] == read_config(tmp_path / "whole")["lr"]
    assert "never tested at this scale (10 steps, 40 images)" in chosen["lr"]["tested"]
    assert whole.summary["steps"] == 10

    step = Trainer._step

    def stepping(self, *arguments):
        step(self, *arguments)
        if self.progress.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stepping)
        with pytest.raises(RunStoppedError):
            sslortho.pretrain(photos, out=tmp_path / "broken", **SMALL)
    # a later version would choose another rate: the run goes on with its own
    monkeypatch.setattr("sslortho.recipes.pretrain.fitting.EVALUATIONS", 1)
    resumed = sslortho.pretrain(photos, out=tmp_path / "broken", **SMALL)
    assert resumed.summary["chosen"] == chosen
    ours, theirs = resumed.backbone.state_dict(), whole.backbone.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(ValueError, match=r"lr \(.* there, 0.5 here\)"):
        sslortho.pretrain(photos, out=tmp_path / "broken", lr=0.5, **SMALL)


@pytest.mark.slow
def test_a_run_of_an_older_version_resumes_with_the_digits_rate_that_it_began_with(
    photos, tmp_path, monkeypatch
):
    """Version 0.1 gave any images the digits' defaults, and wrote them into config.yaml."""
    old = {
        "lr": 6.0,
        "lr_biases": 0.05,
        "warmup_epochs": 1,
        "evaluate_every": 2,
        "batch_size": 8,
        "mixed_precision": "no",
        "crop_size": 32,
        "orth_layers": "conv",
    }
    step = Trainer._step

    def stepping(self, *arguments):
        step(self, *arguments)
        if self.progress.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stepping)
        with pytest.raises(RunStoppedError):
            sslortho.pretrain(photos, out=tmp_path / "run", **SMALL, **old)
    result = sslortho.pretrain(photos, out=tmp_path / "run", **SMALL)
    assert {name: result.summary["config"][name] for name in old} == old
    assert "chosen" not in result.summary
    assert json.loads((tmp_path / "run/summary.json").read_text())["steps"] == 10
