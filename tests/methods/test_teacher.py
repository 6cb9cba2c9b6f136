import math

import pytest
import torch
from helpers.methods import create
from torch import nn


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
