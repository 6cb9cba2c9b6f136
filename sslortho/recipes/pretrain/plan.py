"""The plan of a pretraining, for the lines before its first step."""

from accelerate import Accelerator
from torch import nn
from torch.nn.modules.conv import _ConvNd

from sslortho.data import ImageSet
from sslortho.methods.task import Task
from sslortho.models.export import loads_elsewhere
from sslortho.options import GIVEN
from sslortho.recipes.backbone import SMALL_CROP
from sslortho.recipes.fitted import settled
from sslortho.recipes.plan import (
    describe_optimizer,
    describe_views,
    name_network,
    plan_training,
)
from sslortho.recipes.pretrain.evaluations import has_all_labels
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.pretrain.resolve import PretrainRecipe
from sslortho.runs.start_line import Plan

LEAST_CONVOLUTIONS = 0.5
"""Share of a network's weights in convolutions, below which there is a remark if only these are
orthonormalised."""


def plan_pretraining(
    recipe: PretrainRecipe,
    accelerator: Accelerator,
    images: dict[str, ImageSet | None],
    task: Task,
    steps_per_epoch: int,
) -> Plan:
    """All that is decided about a pretraining, in words.

    Args:
        recipe: of the run.
        accelerator: device, ranks and precision.
        images: kind, such as "to train on", to images; the first are those to train on.
        task: backbone and heads.
        steps_per_epoch: optimizer steps of an epoch.
    """
    options = recipe.options
    training = next(iter(images.values()))
    assert training is not None
    return plan_training(
        options,
        accelerator,
        images,
        name_network(recipe.backbone.name, task.backbone),
        task,
        describe_optimizer(options, recipe.optimizer.lr, True, recipe.lr_biases),
        steps_per_epoch,
        recipe.chosen,
        {
            "views": describe_views(recipe.views),
            "method": name_method(recipe),
            "start": describe_start(options),
        },
        [
            *_find_doubts(recipe, training),
            *find_raw_weights(recipe, task.backbone),
            *find_unused_labels(recipe, images),
        ],
    )


def name_method(recipe: PretrainRecipe) -> str:
    """Name of a method for people; of a class that was handed over, its own."""
    name = recipe.options.method
    return f"{recipe.method.__name__}, handed over" if name == GIVEN else name


def describe_start(options: PretrainOptions) -> str:
    """Initial weights, and layers that are trained otherwise; empty if there are neither."""
    parts = []
    if options.initial_weights is not None:
        parts.append(f"weights of {options.initial_weights}")
    if options.keep_stem:
        parts.append("the first layer is not trained")
    if options.layer_decay is not None:
        parts.append(f"the rate of each layer is {options.layer_decay:g} times that of the next")
    return "; ".join(parts)


def find_raw_weights(recipe: PretrainRecipe, backbone: nn.Module) -> list[str]:
    """A remark if most weights of a network are in no convolution, and only these are orthonormalised."""
    if recipe.optimizer.orth_layers != "conv":
        return []
    layers = (m for m in backbone.modules() if isinstance(m, _ConvNd))
    taken = sum(p.numel() for m in layers for p in m.parameters(recurse=False) if p.ndim > 2)
    share = taken / max(1, sum(p.numel() for p in backbone.parameters() if p.ndim > 1))
    if share >= LEAST_CONVOLUTIONS:
        return []
    return [
        f"--orth_layers conv orthonormalises {100 * share:.2g} % of this network's weights; for a transformer "
        "or a ConvNeXt take --orth_layers all, with a rate of its own"
    ]


def find_unused_labels(recipe: PretrainRecipe, images: dict[str, ImageSet | None]) -> list[str]:
    """A remark about labels, or about images to test on, that no evaluation uses.

    Args:
        recipe: of the run.
        images: those to train on, to test on and held out, in this order; None where there are none.
    """
    training, test, held_out = images.values()
    assert training is not None
    known = has_all_labels(training)
    if test is not None and recipe.options.test:
        return _find_unused_test_images(known, test, held_out)
    if not known or recipe.options.method == GIVEN or held_out is not None:
        return []
    return [
        "labels serve evaluations alone, and these have no images: name some with --test_data, or hold out "
        "a share with --validation 0.1"
    ]


def _find_unused_test_images(known: bool, test: ImageSet, held_out: ImageSet | None) -> list[str]:
    """A remark about images to test on that are not used. known: all training images have labels."""
    if known and has_all_labels(test):
        return []
    lacking = "they" if known else "not all training images"
    remedy = "" if held_out else "; --validation 0.1 holds out images to judge by"
    return [
        f"the images to test on are not used, since {lacking} have {'no ' if known else ''}labels{remedy}"
    ]


FEW_IMAGES = 1000
"""Photographs below which docs/choosing.md advises against random weights: a habit of the field."""


def _find_doubts(recipe: PretrainRecipe, images: ImageSet) -> list[str]:
    """Remarks about views and rates that are probably not meant."""
    options, doubts = recipe.options, []
    size = settled(options.crop_size)
    if not images.holds_small_images and size <= SMALL_CROP and min(images.first_size) >= 2 * size:
        doubts.append(
            f"views of {size} pixels show little of photographs; a backbone such as resnet18 or resnet50 "
            "has larger ones (--config photos: 224)"
        )
    if (
        not images.holds_small_images
        and len(images) < FEW_IMAGES
        and options.initial_weights is None
        and recipe.given.backbone is None  # which may be trained
    ):
        doubts.append(
            f"{len(images):,} photographs are few to learn from: begin with a network that is trained already "
            "(--initial_weights), or take its features (docs/choosing.md); --epochs 20 is a first look"
        )
    if not images.holds_small_images and not loads_elsewhere(recipe.backbone.name):
        doubts.append(
            f"neither timm nor torchvision has backbone={recipe.backbone.name!r}: if they are to load its "
            "weights, take --backbone resnet18 or resnet50"
        )
    if options.knn_k > len(images) and has_all_labels(images):
        doubts.append(
            f"knn_k={options.knn_k} is more than the {len(images):,} training images, so all of them vote"
        )
    return doubts
