"""From the options of supervised training to its parts."""

import pytest
import torch
import torchvision
from accelerate.state import AcceleratorState
from PIL import Image
from torch.nn import functional

from sslortho.augment.views import CIFAR10_MEAN, IMAGENET_MEAN
from sslortho.recipes.supervised.build import build
from sslortho.recipes.supervised.options import SupervisedOptions
from sslortho.recipes.supervised.resolve import create_schedule

QUIET = {"trackers": "none", "threads": 1}


@pytest.fixture(autouse=True)
def fresh_process():
    """Accelerate keeps what the first Accelerator of a process was told."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def built(tmp_path, **options):
    return build(SupervisedOptions(out=str(tmp_path / "run"), **{**QUIET, **options}))


def image_folder(path, size, images=4):
    for split in ("train", "test"):
        for label, shade in (("cat", 60), ("dog", 200)):
            folder = path / split / label
            folder.mkdir(parents=True)
            for i in range(images):
                Image.new("RGB", size, (shade, shade, 10 * i)).save(folder / f"{i}.png")
    return str(path)


# Schedules


def test_multi_step_is_torchs_schedule_by_epochs():
    options = SupervisedOptions(epochs=9, schedule="multi_step", milestones=[3, 6.5], gamma=0.2)
    schedule = create_schedule(options, batches=4)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [12, 26], gamma=0.2)
    for step in range(36):
        assert schedule(step) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


def test_a_constant_schedule_is_one():
    schedule = create_schedule(SupervisedOptions(epochs=3, schedule="constant"), batches=5)
    assert {schedule(step) for step in range(15)} == {1.0}


@pytest.mark.parametrize("name", ["constant", "multi_step", "cosine"])
def test_every_schedule_warms_up_from_zero(name):
    milestones = [5] if name == "multi_step" else None
    options = SupervisedOptions(epochs=8, warmup_epochs=2, schedule=name, milestones=milestones)
    schedule = create_schedule(options, batches=5)
    assert [schedule(step) for step in range(11)] == pytest.approx([i / 10 for i in range(11)])


def test_the_cosine_ends_at_zero():
    schedule = create_schedule(SupervisedOptions(epochs=4, schedule="cosine"), batches=5)
    assert schedule(10) == pytest.approx(0.5)
    assert schedule(20) == pytest.approx(0)


# The optimizer


def decay_of(run, name):
    (group,) = [g for g in run.training.optimizer.param_groups if name in g["names"]]
    return group["weight_decay"], group["lr"], group["orth"]


def test_rates_are_absolute_and_biases_decay_as_told(tmp_path):
    options = {"backbone": "basic_cnn", "batch_size": 100, "lr": 0.03, "weight_decay": 1e-2}
    run = built(tmp_path, **options, weight_decay_biases=1e-3)
    assert decay_of(run, "backbone.features.0.weight") == (1e-2, 0.03, True)
    assert decay_of(run, "classifier.weight") == (1e-2, 0.03, True)
    for name in ("backbone.features.0.bias", "backbone.features.1.weight", "classifier.bias"):
        assert decay_of(run, name) == (1e-3, 0.03, False)


def test_convolutions_alone_leave_the_classifier_raw(tmp_path):
    run = built(tmp_path, backbone="basic_cnn", orth_layers="conv")
    assert decay_of(run, "backbone.features.0.weight")[2]
    assert not decay_of(run, "classifier.weight")[2]


def test_heads_are_matrices_of_their_own(tmp_path):
    run = built(tmp_path, backbone="vit_small_32", attention="heads")
    found = {
        name: (group["orth_components"], group["orth_view"])
        for group in run.training.optimizer.param_groups
        for name in group["names"]
    }
    assert found["backbone.blocks.3.attn.qkv.weight"] == (9, "rows")  # q, k, v of three heads
    assert found["backbone.blocks.3.attn.proj.weight"] == (3, "columns")
    assert found["backbone.blocks.3.mlp.fc1.weight"] == (1, "rows")


def test_betas_and_nesterov_reach_the_optimizer(tmp_path):
    run = built(tmp_path / "a", optim="orth_adam", betas=(0.8, 0.99))
    assert run.training.optimizer.defaults["betas"] == (0.8, 0.99)
    run = built(tmp_path / "b", optim="sgd", nesterov=True)
    assert run.training.optimizer.defaults["nesterov"]
    assert run.training.optimizer.defaults["momentum"] == 0.9


# Network and views


def test_torchvisions_networks_start_as_torchvision_starts_them(tmp_path):
    """The paper's resnet18: stock stem, last batch norms of blocks at one."""
    run = built(tmp_path, backbone="resnet18", stem="stock", seed=3)
    torch.manual_seed(3)
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    ours = run.task.backbone.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert run.task.classifier.out_features == 10


def test_a_head_may_have_outputs_to_spare_as_the_authors_code(tmp_path):
    run = built(tmp_path, backbone="basic_cnn", head_classes=1000)
    assert run.task.classifier.out_features == 1000
    figures = run.evaluate(run.task)
    assert figures["top1"] <= figures["top5"] < 50  # of 1000 outputs, untrained


def test_initial_weights_are_of_the_seed_alone(tmp_path):
    states = [
        built(tmp_path / str(i), backbone="resnet20", optim=optim, seed=seed).task.state_dict()
        for i, (optim, seed) in enumerate([("sgd", 1), ("orth_sgd", 1), ("sgd", 2)])
    ]
    same = [
        all(torch.equal(state[name], states[0][name]) for name in states[0]) for state in states
    ]
    assert same == [True, True, False]


@pytest.mark.parametrize(
    ("size", "crop_size", "view", "native"),
    [
        ((32, 32), None, "supervised_small", 32),
        ((28, 28), None, "supervised_small", 28),
        ((32, 32), 24, "supervised", 24),
        ((90, 70), None, "supervised", 70),
        ((300, 200), None, "supervised", 224),
    ],
)
def test_views_go_by_the_size_of_the_images(tmp_path, size, crop_size, view, native):
    run = built(
        tmp_path, data="folder", data_dir=image_folder(tmp_path / "data", size), batch_size=4,
        crop_size=crop_size, backbone="resnet20",
    )  # fmt: skip
    assert run.recipe.view_name == view
    (views,) = next(iter(run.training.loader)).views
    assert views.shape == (4, 3, native, native)
    assert run.subject.info.mean == (CIFAR10_MEAN if native <= 64 else IMAGENET_MEAN)


def test_held_out_images_are_seen_whole_and_unaugmented(tmp_path):
    data = image_folder(tmp_path / "data", (32, 32))
    run = built(
        tmp_path, data="folder", data_dir=data, batch_size=4, backbone="basic_cnn", validation=0.25
    )
    (batch,) = list(run.held_out)
    assert batch.labels.tolist() == [0, 1]
    flat = batch.views[0].flatten(2)
    assert torch.equal(flat.amin(dim=2), flat.amax(dim=2))  # of one colour: no padding, no crop
    assert len(run.training.loader) == 1  # 6 of 8 images are left


def test_imagenet_is_a_folder_with_val(tmp_path):
    data = image_folder(tmp_path / "data", (40, 40))
    (tmp_path / "data" / "test").rename(tmp_path / "data" / "val")
    run = built(tmp_path, data="imagenet", data_dir=data, batch_size=4, backbone="basic_cnn")
    assert run.data.classes == ("cat", "dog")


# The loss


def test_label_smoothing_is_of_the_training_loss_alone(tmp_path):
    run = built(tmp_path, backbone="basic_cnn", label_smoothing=0.2)
    images = torch.randn(6, 3, 32, 32)
    labels = torch.arange(6)
    run.task.eval()
    loss = run.task((images,), labels)["loss"]
    logs = functional.log_softmax(run.task.classify(images), dim=1)
    expected = -(0.8 * logs[range(6), labels] + 0.2 * logs.mean(dim=1)).mean()
    torch.testing.assert_close(loss, expected)
    tested = run.evaluate(run.task)["test_loss"]
    plain = built(tmp_path / "plain", backbone="basic_cnn")
    assert plain.evaluate(plain.task)["test_loss"] == tested
