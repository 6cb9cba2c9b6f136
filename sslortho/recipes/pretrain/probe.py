"""Figures of a pretraining that need no labels, cheap enough for every evaluation on the way.

Two fixed views of a few fixed images go through backbone and projector. The number of images is fitted to
the length of the run, so that all evaluations together cost less than a hundredth of the training.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sslortho.data import EvaluationLoader, ImageSet, TrainLoader
from sslortho.data.loading import Shard, create_evaluation_loader, create_train_loader
from sslortho.evaluate import (
    alignment,
    contrast,
    distinct_share,
    feature_std,
    neighbour_agreement,
    pair_ranking,
    rankme,
    uniformity,
    view_difference,
)
from sslortho.evaluate.features import evaluation_mode
from sslortho.methods.task import Task
from sslortho.recipes.fitted import settled
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.pretrain.resolve import PretrainRecipe

FEWEST, MOST = 64, 256
"""Fewest and most images: of fewer a RankMe says little, and more are not needed to tell its fall."""

SHARE = 0.005
"""Share of the passes of the training that all evaluations may take together. A training step counts as
three passes of each view, forward and backward."""

PREFIX = "probe/"
"""Beginning of the names of the figures in records."""


def count_images(options: PretrainOptions, images: int, steps: int, views: int) -> int:
    """Number of images of which two views are looked at in each evaluation: whole batches of FEWEST, or all
    images if they are fewer.

    Args:
        options: of the run.
        images: that there are.
        steps: optimizer steps of the run.
        views: of each image in a step.
    """
    every = settled(options.evaluate_every)
    if not every:
        return min(FEWEST, images)
    if images > FEWEST:
        images = images // FEWEST * FEWEST
    evaluations = (
        settled(options.epochs) // every + 2
    )  # before the first step, and perhaps at the end
    passes = SHARE * steps * settled(options.batch_size) * views * 3
    fitting = int(passes / (2 * evaluations)) // FEWEST * FEWEST
    return min(max(FEWEST, min(MOST, fitting)), images)


@dataclass(frozen=True)
class Probe:
    """Figures of a task without labels. The same on every rank, without any exchange."""

    pairs: TrainLoader
    """Two views of the images, the same at every evaluation; every rank has all of them."""
    plain: EvaluationLoader
    """Evaluation views of the same images."""
    initial: dict[str, Tensor]
    """Weights before the first step, by name, on the CPU: matrices and filters that train."""

    def measure(self, task: Task) -> dict[str, float]:
        """{"probe/NAME": figure}; nan where features are not finite.

        Of the backbone's features: rankme, feature_std and uniformity of the first views; alignment,
        agreement (see `neighbour_agreement`) and ranking (see `pair_ranking`) of both. Of the projector's
        outputs: projection_rankme and projection_std. Of the weights: weight_change. Of the images: images
        (their number), distinct_images, contrast and view_difference.
        """
        features, projections = self._pass(task)
        figures = {
            **_measure_features(*features),
            **_measure_projections(projections),
            "weight_change": self._weight_change(task),
            **self._images,
        }
        return {PREFIX + name: value for name, value in figures.items()}

    def _pass(self, task: Task) -> tuple[tuple[Tensor, Tensor], Tensor | None]:
        """Features (n, dim) of both views, and projections of the first ones, if there is a projector."""
        parts: tuple[list[Tensor], list[Tensor]] = ([], [])
        projected: list[Tensor] = []
        projector = getattr(task, "projector", None)
        with evaluation_mode(task), _statistics_of_batches(task), torch.no_grad():
            for batch in self.pairs:
                for part, view in zip(parts, batch.views, strict=True):
                    part.append(task.backbone(view).float())
                if isinstance(projector, nn.Module):
                    projected.append(projector(parts[0][-1]).float())
        first, second = (torch.cat(part) for part in parts)
        return (first, second), torch.cat(projected) if projected else None

    def _weight_change(self, task: Task) -> float:
        """Distance of a weight from where it began, relative to its first length; median over weights."""
        changes = []
        for name, parameter in task.named_parameters():
            if name in self.initial:
                before = self.initial[name].to(parameter.device, torch.float32)
                length = torch.linalg.vector_norm(before)
                change = torch.linalg.vector_norm(parameter.detach().float() - before)
                changes.append(change / length.clamp_min(1e-30))
        return float(torch.stack(changes).median()) if changes else float("nan")

    @cached_property
    def _images(self) -> dict[str, float]:
        """Figures of the images and their views, which stay as they are."""
        images = torch.cat([batch.views[0] for batch in self.plain])
        views = [batch.views for batch in self.pairs]
        first, second = (torch.cat(part) for part in zip(*views, strict=True))
        return {
            "images": float(len(images)),
            "distinct_images": distinct_share(images),
            "contrast": contrast(images),
            "view_difference": view_difference(first, second),
        }


@contextmanager
def _statistics_of_batches(task: Task) -> Iterator[None]:
    """Let batch norm without statistics, as before the first step, use those of the batch; it keeps none.

    With means of 0 and variances of 1 an untrained network seems worse than it is, and a run that learns
    nothing but these statistics would seem a success.
    """
    fresh = [
        module
        for module in task.modules()
        if isinstance(module, _BatchNorm)
        and module.num_batches_tracked is not None
        and not int(module.num_batches_tracked)
    ]
    kept = [{n: b.clone() for n, b in module.named_buffers(recurse=False)} for module in fresh]
    for module in fresh:
        module.training = True
    try:
        yield
    finally:
        for module, buffers in zip(fresh, kept, strict=True):
            module.training = False
            for name, value in buffers.items():
                getattr(module, name).copy_(value)


def _measure_features(first: Tensor, second: Tensor) -> dict[str, float]:
    if not (torch.isfinite(first).all() and torch.isfinite(second).all()):
        names = ("rankme", "feature_std", "alignment", "uniformity", "agreement", "ranking")
        return dict.fromkeys(names, float("nan"))
    return {
        "rankme": rankme(first),
        "feature_std": feature_std(first),
        "alignment": alignment(first, second),
        "uniformity": uniformity(first),
        "agreement": neighbour_agreement(first, second),
        "ranking": pair_ranking(first, second),
    }


def _measure_projections(z: Tensor | None) -> dict[str, float]:
    if z is None:
        return {}
    if not torch.isfinite(z).all():
        return dict.fromkeys(("projection_rankme", "projection_std"), float("nan"))
    return {"projection_rankme": rankme(z), "projection_std": feature_std(z)}


def create_probe(
    recipe: PretrainRecipe, device: torch.device, images: ImageSet, task: Task, steps: int
) -> Probe:
    """Loaders and first weights of a probe.

    Args:
        recipe: of the run.
        device: of this rank.
        images: of which some are looked at: the held-out ones if there are some.
        task: as training begins.
        steps: optimizer steps of the run.
    """
    options = recipe.options
    count = count_images(options, len(images), steps, len(recipe.views))
    generator = torch.Generator().manual_seed(options.seed)
    order = torch.randperm(len(images), generator=generator)[:count]
    chosen = images.select(order.sort().values)
    alone = Shard(device)
    return Probe(
        pairs=create_train_loader(options, chosen, recipe.pair, min(FEWEST, count), alone),
        plain=create_evaluation_loader(options, chosen, recipe.evaluation_views, alone),
        initial={
            name: parameter.detach().cpu().clone()
            for name, parameter in task.named_parameters()
            if parameter.requires_grad and parameter.ndim > 1
        },
    )
