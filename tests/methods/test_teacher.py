import copy
import math

import pytest
import torch
from helpers.methods import create
from helpers.ranks import run_on_ranks
from lightly.models.utils import update_momentum
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from sslortho.methods.teacher import MovingAverage


def students_and_teachers(task, name):
    if name == "dino":
        return task.student, nn.Sequential(task.backbone, task.projector)
    return nn.Sequential(task.backbone, task.projector), task.teacher


@pytest.mark.parametrize("name", ["byol", "moco_v2", "dino"])
def test_the_teacher_is_a_moving_average(name):
    task = create(name, teacher_momentum=0.9)
    student, teacher = students_and_teachers(task, name)
    before = [p.detach().clone() for p in teacher.parameters()]
    for ours, theirs in zip(student.parameters(), before, strict=True):
        torch.testing.assert_close(ours.detach(), theirs)
        ours.data += 1
    task.before_step(step=25, epoch=0, total_steps=101)
    task.after_step()
    # BYOL's and DINO's rises to 1: a quarter of the way, 1 - 0.1 (cos(pi / 4) + 1) / 2
    rate = 0.1 if name == "moco_v2" else 0.1 * (math.cos(math.pi / 4) + 1) / 2
    for now, then in zip(teacher.parameters(), before, strict=True):
        torch.testing.assert_close(now.detach(), then + rate)


def networks(dtype):
    torch.manual_seed(0)
    return [
        nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Linear(5, 2)).to(dtype)
        for _ in range(4)
    ]


def test_all_at_once_is_lightlys_to_the_bit():
    first, second, average, other = networks(torch.float32)
    expected = [copy.deepcopy(module) for module in (average, other)]
    MovingAverage().update((first, second), (average, other), 0.99)
    for source, target in zip((first, second), expected, strict=True):
        update_momentum(source, target, 0.99)
    for ours, theirs in zip((average, other), expected, strict=True):
        assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_of_half_precision_the_average_is_that_of_float32_rounded(dtype):
    student, _, teacher, _ = networks(dtype)
    average = MovingAverage()
    exact = [p.detach().float() for p in teacher.parameters()]
    for _ in range(3):
        average.update((student,), (teacher,), 0.999)
        for i, p in enumerate(student.parameters()):
            exact[i] = exact[i].mul(0.999).add(p.detach().float(), alpha=1 - 0.999)
    for p, value in zip(teacher.parameters(), exact, strict=True):
        assert torch.equal(p.detach(), value.to(dtype))


def average_of_shards(rank: int) -> list[torch.Tensor]:
    """The teacher's parameters after two steps on shards, the second by an average that was restored."""
    student, _, teacher, _ = networks(torch.bfloat16)
    mesh = init_device_mesh("cpu", (2,))
    for module in (student, teacher):
        for layer in module:
            for name, p in list(layer.named_parameters()):
                setattr(layer, name, nn.Parameter(distribute_tensor(p.detach(), mesh, [Shard(0)])))
    first, second = MovingAverage(), MovingAverage()
    first.update((student,), (teacher,), 0.9)
    second.load_state_dict({name: c.full_tensor() for name, c in first.state_dict().items()})
    second.update((student,), (teacher,), 0.9)
    return [p.detach().full_tensor() for p in teacher.parameters()]


@pytest.mark.ranks
def test_of_half_precision_the_average_is_the_same_where_weights_are_sharded(tmp_path):
    results = run_on_ranks(average_of_shards, 2, tmp_path)
    student, _, teacher, _ = networks(torch.bfloat16)
    whole = MovingAverage()
    for _ in range(2):
        whole.update((student,), (teacher,), 0.9)
    for result in results:
        assert all(map(torch.equal, result, teacher.parameters()))
