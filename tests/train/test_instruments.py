"""Layers measured in a short training of BasicCNN on digits."""

import itertools
import os
import signal

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional

from sslortho.data import Batch
from sslortho.data.datasets import load_digits
from sslortho.methods import Classification
from sslortho.methods.barlow_twins import BarlowTwins, BarlowTwinsOptions
from sslortho.models.cifar_resnet import BasicCNN
from sslortho.optim import OrthSGD, param_groups
from sslortho.train.checkpoint import CheckpointFolder
from sslortho.train.instruments import Instruments
from sslortho.train.options import LoopOptions
from sslortho.train.records import Reporter, read_metrics
from sslortho.train.trainer import Trainer

BATCH, BATCHES = 12, 4
CONVOLUTIONS = [f"backbone.features.{i}" for i in (0, 3, 6)]
ACTIVATIONS = [f"backbone.features.{i}" for i in (2, 5, 8)]
LAYER_KINDS = ("gradient_norm", "effective_rank", "zero_gradients", "tiny_gradients",
               "filter_cosine", "cosine", "distance")  # fmt: skip


class Digits:
    """The same few batches every epoch; calls `at_batch[epoch, batch]` before that batch."""

    def __init__(self, at_batch=None):
        data = load_digits("train")
        self.images = data.images[: BATCH * BATCHES].float() / 255
        self.labels = data.labels[: BATCH * BATCHES]
        self.at_batch = at_batch or {}
        self.epoch = self.start = 0

    def __len__(self):
        return BATCHES

    def set_epoch(self, epoch, start_step=0):
        self.epoch, self.start = epoch, start_step

    def __iter__(self):
        for batch in range(self.start, BATCHES):
            self.at_batch.get((self.epoch, batch), lambda: None)()
            part = slice(batch * BATCH, (batch + 1) * BATCH)
            yield Batch((self.images[part],), self.labels[part])


class Watched(Classification):
    """Writes down how many hooks there are in every forward; one filter is disabled."""

    def __init__(self, frozen=False):
        torch.manual_seed(0)
        super().__init__(BasicCNN(), nn.Linear(512, 10), frozen)
        with torch.no_grad():
            self.backbone.features[1].bias[0] = -100
        self.hooks = []

    def count_hooks(self):
        return sum(len(module._forward_hooks) for module in self.modules())

    def forward(self, views, labels):
        self.hooks.append(self.count_hooks())
        return super().forward(views, labels)


def train(folder, task=None, optimizer=torch.optim.SGD, loader=None, evaluate=None, **options):
    task = task or Watched()
    accelerator = Accelerator(cpu=True)
    Trainer(
        task,
        optimizer(param_groups(task, orth="conv"), lr=0.01),
        loader or Digits(),
        accelerator=accelerator,
        schedule=lambda step: 1.0,
        options=LoopOptions(**{"epochs": 1, "log_every": 1, "log_layers": True, **options}),
        reporter=Reporter(folder, accelerator, total_steps=BATCHES),
        checkpoints=CheckpointFolder(folder / "checkpoints"),
        evaluate=evaluate,
    ).run()
    return task, read_metrics(folder / "metrics.jsonl")


def of_layers(record):
    return {name: value for name, value in record.items() if "/" in name and name[:3] != "lr/"}


def pairs(vectors):
    """Mean absolute cosine, pair by pair."""
    values = [
        functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).abs()
        for a, b in itertools.combinations(vectors, 2)
    ]
    return float(torch.stack(values).mean())


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, OrthSGD])
def test_a_record_equals_figures_worked_out_by_hand(tmp_path, optimizer):
    _, records = train(tmp_path, optimizer=optimizer)
    task, loader = Watched(), Digits()
    figures, x = {}, loader.images[:BATCH]
    for i in range(0, 9, 3):
        convolution, norm = task.backbone.features[i : i + 2]
        x = functional.conv2d(x, convolution.weight, convolution.bias, stride=2, padding=1)
        maps = {
            i: x,
            i + 2: functional.batch_norm(x, None, None, norm.weight, norm.bias, True).relu(),
        }
        for number, map_ in maps.items():
            mean = sum(pairs(sample) for sample in map_.detach()[:10]) / 10
            figures[f"representation_cosine/backbone.features.{number}"] = mean
        x = maps[i + 2]
    loss = functional.cross_entropy(task.classifier(x.flatten(1)), loader.labels[:BATCH])
    layers = {name: task.get_submodule(name) for name in [*CONVOLUTIONS, "classifier"]}
    gradients = torch.autograd.grad(loss, [layer.weight for layer in layers.values()])
    for (name, layer), gradient in zip(layers.items(), gradients, strict=True):
        matrix = gradient.flatten(1)
        values = torch.linalg.svdvals(matrix.double())
        rank = torch.linalg.matrix_rank(matrix)  # digits are grey: the first layer's is deficient
        figures[f"filter_cosine/{name}"] = pairs(layer.weight.detach())
        figures[f"gradient_norm/{name}"] = matrix.norm().item()
        figures[f"zero_gradients/{name}"] = (matrix == 0).sum().item()
        figures[f"tiny_gradients/{name}"] = (matrix.abs() <= 1e-4).sum().item()
        # <G, U V^T> is the sum of the singular values; ||U V^T|| the square root of their number
        figures[f"cosine/{name}"] = (values.sum() / values.norm() / rank.sqrt()).item()
    record = of_layers(records[0])
    extra = {f"{kind}/{name}" for kind in ("distance", "effective_rank") for name in layers}
    assert set(record) == set(figures) | extra
    for name, value in figures.items():
        kind = name.split("/")[0]
        # a count may differ by entries within rounding of the bound
        tolerance = {"abs": 2} if kind == "tiny_gradients" else {"rel": 1e-3}
        assert record[name] == pytest.approx(value, **tolerance), name
    # those of the disabled filter, and of the weights of its map in the next layer
    assert record["zero_gradients/backbone.features.0"] == 3 * 3 * 3
    assert record["zero_gradients/backbone.features.3"] == 32 * 3 * 3


def test_off_there_are_no_names_and_training_is_bitwise_the_same(tmp_path):
    on_task, on = train(tmp_path / "on")
    off_task, off = train(tmp_path / "off", log_layers=False)
    assert [r["loss"] for r in on] == [r["loss"] for r in off]
    for a, b in zip(on_task.state_dict().values(), off_task.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert [of_layers(record) for record in off] == [{}] * BATCHES
    assert all(set(of_layers(record)) == set(of_layers(on[0])) for record in on)
    assert off_task.hooks == [0] * BATCHES


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"log_every": 2}, [0, 6, 0, 6]),
        ({"log_every": 3}, [0, 0, 6, 6]),  # a record of what is left of the epoch
        ({"log_every": 1, "accumulation_steps": 2}, [6, 0, 6, 0]),
        ({"log_every": 2, "accumulation_steps": 2}, [0, 0, 6, 0]),
        ({"log_every": 2, "log_layers": False, "log_gradients": True}, [0, 0, 0, 0]),
    ],
)
def test_hooks_are_there_for_the_first_batch_of_a_recorded_step_alone(tmp_path, options, expected):
    def evaluate(task):
        assert task.count_hooks() == 0
        return {}

    task, _ = train(tmp_path, evaluate=evaluate, evaluate_every=1, **options)
    assert task.hooks == expected
    assert task.count_hooks() == 0


def test_a_frozen_backbone_is_not_recorded(tmp_path):
    _, records = train(tmp_path, task=Watched(frozen=True))
    assert set(of_layers(records[0])) == {f"{kind}/classifier" for kind in LAYER_KINDS}


def test_of_two_views_the_first_is_recorded():
    torch.manual_seed(0)
    task = BarlowTwins(BasicCNN(), 512, BarlowTwinsOptions(projector="8"))
    optimizer = torch.optim.SGD(param_groups(task, orth="conv"), lr=0.1)
    instruments = Instruments(task, optimizer, LoopOptions(epochs=1, log_layers=True))
    images = Digits().images
    with instruments.watch():
        task((images[:BATCH], images[BATCH : 2 * BATCH]), torch.zeros(BATCH))["loss"].backward()
    instruments.measure()
    figures = instruments.take()
    first = task.backbone.features[0](images[:10]).detach()
    expected = sum(pairs(sample) for sample in first) / 10
    assert figures[f"representation_cosine/{CONVOLUTIONS[0]}"] == pytest.approx(expected, rel=1e-4)
    assert instruments.take() == {}


def test_a_step_that_is_skipped_has_no_figures(tmp_path):
    loader = Digits()
    loader.images[BATCH] = float("nan")  # in the second batch
    _, records = train(tmp_path, loader=loader)
    assert [bool(of_layers(record)) for record in records] == [True, False, True, True]


@pytest.mark.slow
def test_a_compiled_task_is_recorded_and_compiled_once(tmp_path):
    compilations = []

    def backend(graph, inputs):
        compilations.append(graph)
        return graph.forward

    _, plain = train(tmp_path / "plain", log_every=2)
    task = Classification(BasicCNN(), nn.Linear(512, 10))
    task.load_state_dict(Watched().state_dict())
    task.compile(backend=backend)
    _, compiled = train(tmp_path / "compiled", task=task, log_every=2)
    assert len(compilations) == 1
    for a, b in zip(plain, compiled, strict=True):
        expected, recorded = (
            {name: value for name, value in of_layers(record).items() if name[:4] != "tiny"}
            for record in (a, b)
        )
        assert recorded == pytest.approx(expected, rel=1e-3)
    torch.compiler.reset()


@pytest.mark.slow
def test_a_stop_after_an_epochs_last_step_keeps_the_figures_of_its_record(tmp_path):
    train(tmp_path / "whole", log_every=3)
    stop = {(0, BATCHES - 1): lambda: os.kill(os.getpid(), signal.SIGTERM)}
    train(tmp_path / "broken", loader=Digits(stop), log_every=3)
    train(tmp_path / "broken", log_every=3)
    whole, resumed = (
        [of_layers(record) for record in read_metrics(tmp_path / name / "metrics.jsonl")]
        for name in ("whole", "broken")
    )
    assert resumed == whole
