"""The plan of a training: its rows for the lines before the first step and for summary.json."""

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import nn

from sslortho.augment.numba_kernel import is_kept, must_compile
from sslortho.augment.own_views import OwnView
from sslortho.augment.views import CIFAR10_MEAN, IMAGENET_MEAN, ViewSpec
from sslortho.data import ImageSet, TrainLoader
from sslortho.methods.task import Task
from sslortho.models.own_networks import plain_network
from sslortho.options import GIVEN
from sslortho.recipes.fitted import Choice, settled
from sslortho.recipes.options import TrainingOptions
from sslortho.runs.start_line import Plan, say


def plan_training(
    options: TrainingOptions,
    accelerator: Accelerator,
    images: Mapping[str, ImageSet | None],
    network: str,
    task: Task,
    optimizer: str,
    steps_per_epoch: int,
    chosen: Mapping[str, Choice],
    more: Mapping[str, str] | None = None,
    doubts: Sequence[str] = (),
) -> Plan:
    """All that is decided about a training, in words.

    Args:
        options: of the run, all given.
        accelerator: device, ranks and precision.
        images: kind, such as "to train on", to images.
        network: name of the backbone.
        task: backbone and heads.
        optimizer: name and rate, see `describe_optimizer`.
        steps_per_epoch: optimizer steps of an epoch.
        chosen: values chosen for options that were left out.
        more: other rows, which follow the images.
        doubts: other remarks.
    """
    known = [describe_images(found, kind) for kind, found in images.items() if found is not None]
    rows = {
        "images": "; ".join(known),
        **(more or {}),
        "network": describe_network(network, task.backbone, task),
        "device": describe_device(accelerator),
        "optimizer": optimizer,
        "steps": describe_steps(options, steps_per_epoch),
        "run folder": str(options.run_folder),
        **describe_choices(chosen),
    }
    found = find_doubts(options, steps_per_epoch * options.epochs)
    return Plan(rows, (*found, *doubts))


def describe_images(images: ImageSet, kind: str = "to train on") -> str:
    """Number, labels, size and channels of an image set: "1,437 to train on (10 classes, ...)"."""
    classes = len(images.labels[images.labels >= 0].unique())
    labels = f"{classes} classes" if classes else "no labels"
    height, width = images.first_size
    size = f"{width} x {height} pixels" if images.in_memory else f"the first of {width} x {height}"
    return f"{len(images):,} {kind} ({labels}; {size}; {getattr(images, 'channels', 3)} channels)"


def describe_views(views: Sequence[ViewSpec | OwnView]) -> str:
    """Number, sizes and normalisation of the views: "2 of 32 pixels, normalised as CIFAR-10"."""
    sizes = list(dict.fromkeys(view.crop_size for view in views))
    counts = [sum(view.crop_size == size for view in views) for size in sizes]
    parts = ", ".join(f"{n} of {size} pixels" for n, size in zip(counts, sizes, strict=True))
    mean, std = views[0].mean, views[0].std
    if (mean, std) == (OwnView.mean, OwnView.std):
        return f"{parts}, not normalised"
    names = {CIFAR10_MEAN: "as CIFAR-10", IMAGENET_MEAN: "as ImageNet"}
    return f"{parts}, normalised {names.get(mean, 'by a mean of its own')}"


def name_network(name: str, backbone: nn.Module) -> str:
    """Name of a backbone for people; of a module that was handed over, its class."""
    if name != GIVEN:
        return name
    return f"{type(plain_network(backbone)).__name__}, handed over"


def describe_network(name: str, backbone: nn.Module, task: nn.Module) -> str:
    """Name and parameters of a backbone, and of all that is trained."""
    inside = sum(p.numel() for p in backbone.parameters())
    trained = sum(p.numel() for p in task.parameters() if p.requires_grad)
    return (
        f"{name}, {_millions(inside)} parameters; {_millions(trained)} are trained, heads included"
    )


def _millions(count: int) -> str:
    return f"{count / 1e6:.3g} million" if count >= 100_000 else f"{count:,}"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def describe_device(accelerator: Accelerator) -> str:
    """Device, processes and precision."""
    device, ranks = accelerator.device, accelerator.num_processes
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        name = f"CPU, {_count(threads, 'thread')}"
    precision = {"no": "float32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    return f"{f'{ranks} processes, each ' if ranks > 1 else ''}{name}; {precision}"


def describe_steps(options: TrainingOptions, steps_per_epoch: int) -> str:
    """Steps of an epoch and in all, batch and warm-up."""
    total = steps_per_epoch * options.epochs
    warmup = round(options.warmup_epochs * steps_per_epoch)
    parts = [f"{steps_per_epoch:,} an epoch, {total:,} in {_count(options.epochs, 'epoch')}"]
    parts.append(f"batches of {settled(options.batch_size):,}")
    if warmup:
        parts.append(f"warm-up of {warmup:,}")
    return "; ".join(parts)


def describe_optimizer(
    options: TrainingOptions, lr: float, per_256: bool, lr_biases: float | None = None
) -> str:
    """Name and final rate of an optimizer, with its unit; that of biases and norms if they have their own."""
    if not per_256:
        return f"{options.optim}, rate {lr:.4g} (absolute)"
    batch = settled(options.batch_size)
    rates = f"{options.optim}, rate {lr:.4g} = lr {options.lr:.4g} x batch {batch} / 256"
    return rates if lr_biases is None else f"{rates}; biases and norms {lr_biases:.4g}"


def describe_choices(chosen: Mapping[str, Choice]) -> dict[str, str]:
    """A row for each option that was left out: its value, the reason, and where it was tested.

    Those of one reason share a row.
    """
    by_reason: dict[str, list[str]] = {}
    for name, choice in chosen.items():
        by_reason.setdefault(str(choice), []).append(name)
    rows = {}
    for reason, names in by_reason.items():
        key = f"--{names[0]}" if len(names) == 1 else "left out"
        values = [f"{'' if len(names) == 1 else f'--{n} '}{chosen[n].value}" for n in names]
        rows[key] = f"{', '.join(values)} ({reason})"
    return rows


def find_doubts(options: TrainingOptions, total_steps: int) -> list[str]:
    """Remarks about a length that is probably not meant.

    Args:
        options: of the run, all given.
        total_steps: optimizer steps of the run.
    """
    doubts = []
    if options.warmup_epochs and options.warmup_epochs >= options.epochs:
        doubts.append(
            f"warmup_epochs={options.warmup_epochs:g} is the whole run of {_count(options.epochs, 'epoch')}: "
            "the rate never reaches its value; give a shorter one, such as "
            f"--warmup_epochs {options.epochs / 10:g}"
        )
    if total_steps < FEW_STEPS:
        doubts.append(
            f"{_count(total_steps, 'step')} in all will teach little; give more epochs, or a smaller batch_size"
        )
    return doubts


FEW_STEPS = 20
"""Steps below which a run is remarked on: Adam's running means alone need as many."""


def say_compiling(loader: TrainLoader) -> None:
    """Say that the first batch will take long, if kernels that it needs are not on disk yet."""
    kernels = getattr(loader, "kernels", ())
    if not any(map(must_compile, kernels)):
        return
    if all(map(is_kept, kernels)):
        say("compiling kernels, once a machine: 10 to 60 seconds")
    else:
        say(
            "compiling kernels, 10 to 60 seconds at every start, since they are not kept: probably no folder "
            "for them can be written to; NUMBA_CACHE_DIR names another"
        )
