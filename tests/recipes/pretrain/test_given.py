"""Pretraining with objects of the caller's: networks, projectors, methods and views."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from helpers.script_runs import call_command
from safetensors.torch import load_file
from torch import nn
from torchvision.transforms import v2

import sslortho
from sslortho.augment import ViewSpec, create_views
from sslortho.methods import Method
from sslortho.models import create_backbone
from sslortho.options import Options

FEW = {
    "threads": 1, "trackers": "none", "subset": 60, "batch_size": 20, "epochs": 2, "warmup_epochs": 0,
    "linear_probe": False, "evaluate_every": 0,
}  # fmt: skip


class Small(nn.Module):
    """A network that gives a map (batch, 6, height, width), and may break on the way."""

    breaks_after: int | None = None

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Conv2d(3, 8, 3, stride=2)
            self.norm = nn.BatchNorm2d(8)
            self.second = nn.Conv2d(8, 6, 3, stride=2)

    def forward(self, images):
        if self.training and Small.breaks_after is not None:
            Small.breaks_after -= 1
            if Small.breaks_after < 0:
                raise RuntimeError("killed")
        return self.second(torch.relu(self.norm(self.first(images))))


def pretrain(out, model=None, **options):
    return sslortho.pretrain("digits", model or Small(), out=out, **{**FEW, **options})


def weights(run):
    return load_file(run.folder / "backbone.safetensors")


def assert_same(first, second):
    first, second = weights(first), weights(second)
    assert list(first) == list(second)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return pretrain(tmp_path_factory.mktemp("runs") / "whole", projector="8-8")


def test_the_module_stays_as_it_is_and_a_copy_is_trained(tmp_path):
    module = Small()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    run = pretrain(tmp_path, module, projector="8-8")
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert set(weights(run)) == set(before)  # under the user's own names
    assert not torch.equal(weights(run)["first.weight"], before["first.weight"])
    assert run.backbone(torch.zeros(2, 3, 32, 32)).shape == (2, 6)
    assert not run.backbone.training
    assert run.summary["config"]["backbone"] == "given"
    assert "untrained_knn_top1" in run.summary


def test_a_module_trains_as_the_same_network_by_name(tmp_path):
    head = nn.Linear(512, 8)
    named = pretrain(tmp_path / "named", "basic_cnn", projector=head, seed=4)
    module = create_backbone("basic_cnn", seed=4)
    given = pretrain(tmp_path / "given", module, projector=head, seed=4)
    assert_same(named, given)
    for figure in ("loss", "knn_top1", "untrained_knn_top1", "untrained_rankme"):
        assert named.summary[figure] == given.summary[figure], figure


def test_a_broken_run_resumes_bitwise(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(Small, "breaks_after", 9)  # in the second epoch: two views a step, 3 steps
    with pytest.raises(RuntimeError, match="killed"):
        pretrain(tmp_path, projector="8-8")
    monkeypatch.setattr(Small, "breaks_after", None)
    assert list((tmp_path / "checkpoints").glob("*.pt"))
    resumed = pretrain(tmp_path, projector="8-8")
    assert_same(resumed, trained)
    for figure in ("loss", "knn_top1", "untrained_knn_top1"):
        assert resumed.summary[figure] == trained.summary[figure], figure


def test_a_finished_run_of_the_same_module_is_returned(trained, capsys):
    again = pretrain(trained.folder, projector="8-8")
    assert "finished already" in capsys.readouterr().out
    assert again.summary == trained.summary


def test_other_initial_weights_are_refused(trained, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"weights of the backbone have changed.*manual_seed"):
        pretrain(trained.folder, Small(seed=1), projector="8-8")
    monkeypatch.setattr(Small, "breaks_after", 9)
    with pytest.raises(RuntimeError, match="killed"):
        pretrain(tmp_path, projector="8-8")
    monkeypatch.setattr(Small, "breaks_after", None)
    with pytest.raises(ValueError, match=r"weights of the backbone have changed.*does not fit"):
        pretrain(tmp_path, Small(seed=1), projector="8-8", accept_changed_data=True)


def test_weights_come_back_into_a_module_alone(trained):
    images = torch.randn(2, 3, 32, 32)
    loaded = sslortho.load_backbone(trained.folder, Small(seed=7))
    assert torch.equal(loaded(images), trained.backbone(images))
    with pytest.raises(ValueError, match="module that was handed over"):
        sslortho.load_backbone(trained.folder)
    with pytest.raises(ValueError, match="does not fit the backbone"):
        sslortho.load_backbone(trained.folder, nn.Conv2d(3, 4, 3))
    with pytest.raises(ValueError, match="stem='small' has no effect on a module"):
        sslortho.load_backbone(trained.folder, Small(), stem="small")


def test_the_trained_module_is_evaluated_with_the_views_of_its_training(trained, tmp_path):
    found = sslortho.extract_features(trained.backbone, "digits", threads=1)
    assert found.features.shape == (360, 6)
    options = {"threads": 1, "pictures": False, "subset": 60, "k": 20, "temperature": 0.07}
    knn = sslortho.knn_eval(trained.backbone, "digits", out=tmp_path, **options)
    assert knn.summary["knn_top1"] == pytest.approx(trained.summary["knn_top1"], abs=0.3)
    with pytest.raises(ValueError, match="weights of the backbone have changed"):
        sslortho.knn_eval(Small(), "digits", out=tmp_path, **options)


def test_supervised_training_takes_a_module(tmp_path):
    module = Small()
    few = {name: FEW[name] for name in ("threads", "trackers", "subset", "batch_size", "epochs")}
    run = sslortho.supervised("digits", module, out=tmp_path, pictures=False, **few)
    assert run.backbone(torch.zeros(2, 3, 32, 32)).shape == (2, 6)
    assert not torch.equal(weights(run)["first.weight"], module.first.weight)


@pytest.mark.parametrize("method", ["simclr", "vicreg", "byol", "simsiam", "moco_v2"])
def test_every_method_but_dino_takes_a_projector(method, tmp_path):
    head = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10))
    run = pretrain(tmp_path, method=method, projector=head, epochs=1)
    assert run.summary["steps"] == 3
    assert math.isfinite(run.summary["loss"])
    other = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10))
    with pytest.raises(ValueError, match="projector that was handed over changed"):
        pretrain(tmp_path, method=method, projector=other, epochs=1)


def test_dino_refuses_a_projector(tmp_path):
    with pytest.raises(ValueError, match="dino takes none of one's own"):
        pretrain(tmp_path, method="dino", projector=nn.Linear(6, 8))


@dataclass(frozen=True, kw_only=True)
class AlignmentOptions(Options):
    """Options of Alignment."""

    weight: float = 1.0
    """Factor of the distance."""

    def __post_init__(self):
        self._check("weight", self.weight > 0, "above 0")
        super().__post_init__()


class Alignment(Method):
    """Pull two views together, and keep the spread of each dimension: the simplest method there is."""

    Options = AlignmentOptions

    def __init__(self, backbone, dim, options):
        super().__init__(backbone, dim, options)
        self.projector = nn.Linear(dim, 8)
        self.weight = options.weight

    def forward(self, views, labels):
        z_a, z_b = (self.projector(self.backbone(view)) for view in views)
        return {"loss": self.weight * (z_a - z_b).pow(2).mean() - z_a.std(dim=0).mean()}


class WithoutOptions(Alignment):
    """The same without options."""

    Options = Options

    def __init__(self, backbone, dim, options):
        Method.__init__(self, backbone, dim, options)
        self.projector = nn.Linear(dim, 8)
        self.weight = 1.0


def test_an_own_method_has_its_options_and_resumes(tmp_path, monkeypatch):
    whole = pretrain(tmp_path / "whole", method=Alignment, weight=2.0, lr=0.1)
    assert whole.summary["config"]["weight"] == 2.0
    assert whole.summary["config"]["method"] == "given"
    monkeypatch.setattr(Small, "breaks_after", 9)
    with pytest.raises(RuntimeError, match="killed"):
        pretrain(tmp_path / "broken", method=Alignment, weight=2.0, lr=0.1)
    monkeypatch.setattr(Small, "breaks_after", None)
    assert_same(whole, pretrain(tmp_path / "broken", method=Alignment, weight=2.0, lr=0.1))
    other = type("Other", (Alignment,), {})
    with pytest.raises(ValueError, match="method that was handed over changed"):
        pretrain(tmp_path / "broken", method=other, weight=2.0, lr=0.1)


def test_an_own_method_without_options_trains_the_same(tmp_path):
    with_options = pretrain(tmp_path / "with", "basic_cnn", method=Alignment, lr=0.1, epochs=1)
    without = pretrain(tmp_path / "without", "basic_cnn", method=WithoutOptions, lr=0.1, epochs=1)
    assert_same(with_options, without)


class OneView(WithoutOptions):
    """A method of one view of each image, as masked autoencoders are."""

    @staticmethod
    def takes(views):
        return views == 1

    def forward(self, views, labels):
        (view,) = views
        return {"loss": -self.projector(self.backbone(view)).std(dim=0).mean()}


@pytest.mark.parametrize("own", ["specification", "callable"])
def test_a_method_of_one_view_is_judged_by_two_draws_of_it(tmp_path, own):
    """Without labels too, where the two draws are all that it is judged by."""
    images = np.random.default_rng(0).integers(0, 255, (60, 24, 24, 3), dtype=np.uint8)
    view = ViewSpec(crop_size=24) if own == "specification" else crop()
    options = {**FEW, "subset": None, "epochs": 1, "views": [view], "lr": 0.1, "evaluate_every": 1}
    run = sslortho.pretrain(images, Small(), method=OneView, out=tmp_path / "run", **options)
    assert run.summary["steps"] == 3
    assert 0 <= run.summary["pair_ranking"] <= 100
    assert run.summary["alignment"] > 1e-3  # two draws, not one twice
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    found = [r["probe/view_difference"] for r in map(json.loads, lines) if "probe/rankme" in r]
    assert min(found) > 0
    assert "the same of the network as given" in (tmp_path / "run/report.md").read_text()


def test_views_of_ones_own_are_for_pretraining(tmp_path):
    with pytest.raises(ValueError, match="views: supervised takes the name of a view"):
        sslortho.supervised("digits", Small(), views=[crop()], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_own_specifications_are_the_named_views(tmp_path):
    named = pretrain(tmp_path / "named", projector="8-8", epochs=1, views="barlow_twins_digits")
    specs = list(create_views("barlow_twins_digits", 32))
    given = pretrain(tmp_path / "given", projector="8-8", epochs=1, views=specs)
    assert_same(named, given)
    assert given.summary["config"]["views"] == "given"
    with pytest.raises(ValueError, match="views that were handed over changed"):
        pretrain(tmp_path / "given", projector="8-8", epochs=1, views=specs[::-1])


def crop():
    return v2.Compose([
        v2.RandomResizedCrop(24, antialias=True), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.5, 0.4, 0.3], [0.2, 0.2, 0.2]),
    ])  # fmt: skip


def test_own_callables_train_resume_and_need_no_crop_size(tmp_path, monkeypatch):
    options = {"projector": "8-8", "workers": 0, "views": [crop(), crop()]}
    whole = pretrain(tmp_path / "whole", crop_size=None, **options)
    assert whole.summary["config"]["crop_size"] == 24
    assert whole.backbone.pretraining.mean == (0.5, 0.4, 0.3)
    monkeypatch.setattr(Small, "breaks_after", 9)
    with pytest.raises(RuntimeError, match="killed"):
        pretrain(tmp_path / "broken", **options)
    monkeypatch.setattr(Small, "breaks_after", None)
    assert_same(whole, pretrain(tmp_path / "broken", **{**options, "workers": 2}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": nn.Linear}, r"model=Linear is a class; give an instance: Linear\(\)"),
        ({"model": 3}, "model=3 must be a name or a torch.nn.Module"),
        ({"model": nn.Linear(3, 3)}, "model=Linear does not take images"),
        ({"stem": "small"}, "stem='small' has no effect on backbone='given'"),
        ({"method": nn.Linear}, "must be a name or a subclass"),
        ({"method": Alignment, "weigh": 1.0}, "'weigh' is not an option .did you mean weight"),
        ({"method": Alignment, "weight": -1.0}, "weight=-1.0 must be above 0"),
        ({"method": Alignment, "projector": nn.Linear(6, 8)}, "projector"),
        ({"projector": 3}, "projector=3 must be widths"),
        ({"views": []}, r"views=\[\] must be a name, or a list of views"),
        ({"views": len}, "must be a name, or a list of views.*give it twice, in a list"),
        ({"views": [ViewSpec(), len]}, "all ViewSpec, or all callables"),
        ({"views": [len, len]}, "fails on a PIL image"),
        ({"views": [lambda image: torch.zeros(1, 8, 8)] * 2}, r"gives \(1, 8, 8\)"),
        ({"views": [ViewSpec()] * 2, "crop_size": 32}, "crop_size=32 is not that of the first"),
        ({"views": [ViewSpec()] * 3}, "are 3 of each image"),
    ],
)
def test_mistakes_are_value_errors(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        pretrain(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["backbone", "projector", "method", "views"])
def test_the_command_line_has_no_objects(name, tmp_path):
    done = call_command("pretrain", f"--{name}", "given", "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert f"{name}='given' stands for" in done.stderr
    assert done.stderr.count("\n") == 1
