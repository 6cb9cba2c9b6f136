"""From the options of a linear evaluation to its parts."""

import shutil

import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from sslortho.augment.views import CIFAR10_MEAN, IMAGENET_MEAN
from sslortho.models import BackboneInfo, create_backbone, write_backbone
from sslortho.optim import OPTIMIZERS
from sslortho.recipes.backbone import load_subject
from sslortho.recipes.command_line import parse_options
from sslortho.recipes.configs import configs_folder
from sslortho.recipes.linear_eval.fast_probe import build_fast_probe
from sslortho.recipes.linear_eval.options import LinearEvalOptions
from sslortho.recipes.linear_eval.resolve import resolve
from sslortho.recipes.linear_eval.training import build_linear_evaluation


@pytest.fixture(autouse=True)
def fresh_process():
    """Accelerate keeps what the first Accelerator of a process was told."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


EVALUATIONS = [
    path
    for path in sorted(configs_folder().glob("*.yaml"))
    if path.stem.split("_")[0] in ("linear", "finetune", "probe")
]


@pytest.mark.slow
@pytest.mark.parametrize("path", EVALUATIONS, ids=[path.stem for path in EVALUATIONS])
def test_every_evaluation_builds_on_other_data(path, folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = [
        "--config", str(path), "--backbone_from", "random", "--backbone", "resnet18", "--data",
        "folder", "--data_dir", str(folder), "--crop_size", "40", "--threads", "1",
        "--batch_size", "4", "--train_percent", "100",
    ]  # fmt: skip
    options = parse_options(LinearEvalOptions, arguments)
    fast = options.protocol == "lbfgs"
    run = build_fast_probe(options) if fast else build_linear_evaluation(options)
    assert next(iter(run.test)).views[0].shape == (8, 3, 40, 40)


def test_the_published_protocol():
    """facebookresearch/barlowtwins, evaluate.py."""
    path = configs_folder() / "linear_imagenet.yaml"
    given = ["--backbone_from", "x", "--data_dir", "y"]
    options = parse_options(LinearEvalOptions, ["--config", str(path), *given])
    assert (options.optim, options.lr, options.momentum, options.weight_decay) == (
        "sgd",
        0.3,
        0.9,
        1e-6,
    )
    assert (options.batch_size, options.epochs) == (256, 100)


@pytest.mark.slow
def test_the_rate_falls_to_zero_by_optimizer_steps(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = [
        "--backbone_from", "random", "--backbone", "basic_cnn", "--data", "folder", "--data_dir", str(folder),
        "--crop_size", "32", "--threads", "1", "--batch_size", "4", "--accumulation_steps", "2",
        "--epochs", "4", "--warmup_epochs", "1",
    ]  # fmt: skip
    run = build_linear_evaluation(parse_options(LinearEvalOptions, arguments))
    schedule, steps = run.training.schedule, len(run.training.loader) // 2
    assert steps == 2
    assert schedule(0) == 0
    assert schedule(steps) == 1
    assert schedule(4 * steps) == pytest.approx(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of four grey images, of 50 x 60 pixels, to train and to test on."""
    path = tmp_path_factory.mktemp("folder")
    for split in ("train", "val"):
        for label in ("a", "b"):
            (path / split / label).mkdir(parents=True)
            for i in range(4):
                image = Image.new("RGB", (60, 50), (20 * i, 50, 50))
                image.save(path / split / label / f"{label}{i}.png")
    return path


def linear(**options):
    usual = {"backbone_from": "random", "backbone": "basic_cnn", "trackers": "none", "threads": 1}
    return LinearEvalOptions(**{**usual, **options})


@pytest.mark.parametrize("optim", sorted(OPTIMIZERS))
@pytest.mark.parametrize("weights", ["freeze", "finetune"])
def test_the_probe_takes_every_optimizer_with_rates_for_the_batch_size(optim, weights):
    extra = {"lr_backbone": 0.01} if weights == "finetune" else {}
    options = linear(optim=optim, lr=0.3, batch_size=512, weights=weights, **extra)
    recipe = resolve(options)
    task = recipe.create_task(load_subject(options, 32), 10)
    optimizer = recipe.create_optimizer(task)
    assert type(optimizer) is OPTIMIZERS[optim]
    rates = {}
    for group in optimizer.param_groups:
        if optim == "muon" and not group["orth"]:
            assert group["lr"] == 3e-4  # its AdamW's own
        else:
            rates.setdefault(group["name"].split(":")[0], set()).add(group["lr"])
        assert group["orth"] or "orthonormalised" not in group["name"]
    assert rates.pop("classifier") == {0.6}
    assert rates == ({"backbone": {0.02}} if weights == "finetune" else {})
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in task.parameters() if p.requires_grad}


def info_of(tmp_path, crop_size=48):
    """A weights file that says how its backbone was pretrained, and what it says."""
    info = BackboneInfo(
        backbone="resnet20", stem="stock", crop_size=crop_size, mean=(0.1, 0.2, 0.3), std=(1.0,) * 3
    )
    write_backbone(create_backbone("resnet20"), tmp_path / "w.safetensors", info)
    return str(tmp_path / "w.safetensors"), info


@pytest.mark.slow
def test_features_are_of_views_as_in_pretraining_unless_told(tmp_path):
    path, info = info_of(tmp_path)
    assert load_subject(linear(backbone_from=path, backbone=None), 32).info == info
    other = linear(backbone_from=path, backbone=None, crop_size=224, normalise="imagenet")
    changed = load_subject(other, 32).info
    assert (changed.crop_size, changed.mean) == (224, IMAGENET_MEAN)
    torch.save(create_backbone("resnet18").state_dict(), tmp_path / "plain.pth")
    plain = linear(backbone_from=str(tmp_path / "plain.pth"), backbone=None)
    for native in (224, 32):  # first layers as ImageNet's
        unknown = load_subject(plain, native)
        assert (unknown.info.backbone, unknown.info.stem) == ("resnet18", "stock")
        assert (unknown.info.crop_size, unknown.info.mean) == (native, IMAGENET_MEAN)
        assert ("--crop_size 224" in unknown.origin) is (native == 32)
    torch.save(create_backbone("resnet20").state_dict(), tmp_path / "small.pth")
    small = load_subject(linear(backbone_from=str(tmp_path / "small.pth"), backbone="resnet20"), 32)
    assert small.info.mean == CIFAR10_MEAN


def test_small_images_are_shown_at_their_own_size_or_enlarged(tmp_path):
    for size in (None, 224):
        run = build_fast_probe(linear(crop_size=size))
        assert next(iter(run.test)).views[0].shape[2:] == (size or 32,) * 2


def test_pictures_show_the_images_that_were_asked_for():
    run = build_fast_probe(linear(normalise="cifar10"))
    views = run.evaluation_views(run.data.test, torch.tensor([7, 3]))
    batch = next(iter(run.test)).views[0]
    torch.testing.assert_close(views, batch[[7, 3]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone_from": "no/such/file.pth"}, "no/such/file.pth"),
        ({"backbone": "resnet19"}, "did you mean resnet18"),
        ({"train_percent": 0.1}, "leaves 1 of 1437 images for 10 classes"),
        ({"train_percent": 99.0}, "takes 143 images of each class, and one has 1"),
        ({"optim": "orth_lars", "orth_layers": "conv"}, "nothing to orthonormalise"),
        ({"stem": "solo_learn"}, "stem='solo_learn' has no effect on backbone='basic_cnn'"),
        ({"workers": 2}, "workers=2 has no effect"),
        (
            {"backbone": "timm:vit_tiny_patch16_224", "crop_size": 40},
            "crop_size=40 does not fit a VisionTransf",
        ),
        ({"subset": 100, "batch_size": 101}, "batch_size=101 is larger than the data"),
        ({"train_list": "no/list.txt"}, "train_list='no/list.txt' cannot be read"),
        ({"optim": "adamm"}, "did you mean adam"),
        ({"orth_layers": "all"}, "orth_layers='all' has no effect on optim='sgd'"),
    ],
)
def test_mistakes_about_an_evaluation_are_found_before_it(options, message):
    with pytest.raises(ValueError, match=message):
        build_linear_evaluation(linear(**options))


def test_few_labels_are_balanced_and_of_the_seed():
    labels = []
    for seed in (0, 0, 1):
        options = linear(train_percent=10.0, seed=seed)
        train = build_fast_probe(options).data.train
        assert train.labels.bincount().tolist() == [15] * 4 + [14] * 6
        labels.append(train.images.float().mean(dim=(1, 2, 3)))
    assert torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[0], labels[2])


def test_a_list_that_leaves_classes_out_says_so(folder, tmp_path):
    path = tmp_path / "list.txt"
    for names, message in (("a0.png\na1.png", "one class alone"), ("a0.png\nb1.png", None)):
        path.write_text(names)
        options = linear(data="folder", data_dir=str(folder), train_list=str(path), crop_size=32,
                        loader="files")  # fmt: skip
        if message:
            with pytest.raises(ValueError, match=message):
                build_fast_probe(options)
        else:
            assert build_fast_probe(options).data.train.labels.tolist() == [0, 1]


@pytest.mark.parametrize(("shape", "crop_size"), [((40, 60, 3), 40), ((100, 120, 3), 224)])
def test_images_are_seen_alike_whether_in_memory_or_in_files(tmp_path, shape, crop_size):
    """Small ones whole, others as photographs."""
    for split in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            for i in range(2):
                pixels = torch.randint(0, 256, shape, dtype=torch.uint8).numpy()
                Image.fromarray(pixels).save(tmp_path / split / label / f"{i}.png")
    views = []
    for loader in ("tensor", "files"):
        options = linear(data="folder", data_dir=str(tmp_path), loader=loader)
        run = build_fast_probe(options)
        assert run.subject.info.crop_size == crop_size
        views.append(next(iter(run.test)).views[0])
    level = 1 / 255 / 0.224  # which the two roundings of a resized image may differ by
    torch.testing.assert_close(views[0], views[1], rtol=0, atol=1.01 * level)
    assert (views[0] - views[1]).abs().mean() < 1e-4


def test_data_that_cannot_be_evaluated_on_are_refused(folder, tmp_path):
    def build_on(data_dir):
        options = linear(data="folder", data_dir=str(data_dir), batch_size=2, crop_size=32)
        build_linear_evaluation(options)

    alone = tmp_path / "alone"
    shutil.copytree(folder / "train", alone / "train")
    with pytest.raises(ValueError, match="has no test images"):
        build_on(alone)
    single = tmp_path / "single"
    for split in ("train", "val"):
        shutil.copytree(folder / split / "a", single / split / "a")
    with pytest.raises(ValueError, match="one class alone"):
        build_on(single)
    flat = tmp_path / "flat"
    for split in ("train", "val"):
        shutil.copytree(folder / split / "a", flat / split)
    with pytest.raises(ValueError, match="have no labels"):
        build_on(flat)
