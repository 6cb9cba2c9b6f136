"""Evaluations of a pretraining: with labels where there are some, else without."""

from contextlib import nullcontext
from dataclasses import dataclass, replace

from accelerate import Accelerator
from torch import nn

from sslortho.data import EvaluationLoader, ImageSet
from sslortho.data.loading import Shard, create_evaluation_loader
from sslortho.data.subsets import choose_some
from sslortho.evaluate import FrozenEvaluation
from sslortho.methods.task import Task
from sslortho.recipes.pretrain.resolve import PretrainRecipe
from sslortho.recipes.pretrain.unlabelled import (
    UnlabelledEvaluation,
    create_unlabelled_evaluation,
)
from sslortho.train.launch import autocast_on_gpu


@dataclass(frozen=True)
class Evaluations:
    """Evaluations on the way and at the end. Every rank must call; all get the same figures."""

    test: FrozenEvaluation
    """With the test images; without any if they have no labels, or are not to be used."""
    held_out: FrozenEvaluation | None
    """With the held-out training images, if they have labels."""
    unlabelled: UnlabelledEvaluation | None
    """Measures without labels; None where there are labelled images to evaluate."""

    def online(self, task: Task) -> dict[str, float]:
        """Figures during training that need labels, or held-out images: of these if there are some, else
        of the test images."""
        if self.unlabelled is not None:
            return self.unlabelled.online(task)
        if self.held_out is None:
            return self.test.online(task.backbone)
        return _of_held_out(self.held_out.online(task.backbone))

    def final(self, task: Task) -> dict[str, float]:
        """Figures of a finished run, or of the task before it."""
        figures = self._judge_backbone(task.backbone)
        return figures if self.unlabelled is None else {**figures, **self.unlabelled.final(task)}

    def _judge_backbone(self, backbone: nn.Module) -> dict[str, float]:
        if self.held_out is None:
            return self.test.final(backbone)
        if self.test.test is None:
            return _of_held_out(self.held_out.final(backbone))
        held_out = replace(self.held_out, autocast=nullcontext)  # as all figures of the end
        return {**_of_held_out(held_out.online(backbone)), **self.test.final(backbone)}


def _of_held_out(figures: dict[str, float]) -> dict[str, float]:
    """Figures by the names that those of held-out images have; measures without labels keep theirs."""
    return {f"val_{n}" if n.endswith("_top1") else n: value for n, value in figures.items()}


MOST_RANKED = 25_600
"""Most images without labels that RankMe is computed of: the number of its paper (arXiv 2210.02885)."""


def has_all_labels(images: ImageSet) -> bool:
    """Whether each image has a label: its figures are those of labels then."""
    return bool((images.labels >= 0).all())


def _has_labels_to_test(test: ImageSet) -> bool:
    missing = int((test.labels < 0).sum())
    if 0 < missing < len(test):
        raise ValueError(
            f"test_data: {missing} of the {len(test)} images to test on have no label (-1), the others have "
            "one; give labels to all of them, or to none"
        )
    return not missing


def create_evaluations(
    recipe: PretrainRecipe,
    accelerator: Accelerator,
    shard: Shard,
    train: ImageSet,
    test: ImageSet | None,
    held_out: ImageSet | None,
) -> Evaluations:
    """Evaluations of the images that there are.

    Args:
        recipe: of the run.
        accelerator, shard: of this rank.
        train, test, held_out: images.

    Raises ValueError for a linear probe of images of one class, and for labels of some test images alone.
    """
    options = recipe.options
    known = has_all_labels(train)
    labelled = known and options.test and test is not None and _has_labels_to_test(test)
    has_labels = labelled or (known and held_out is not None)
    if has_labels and options.linear_probe and len(train.labels.unique()) < 2:
        raise ValueError(
            "linear_probe=True: the training images are of one class alone, and a probe needs two; give "
            "--linear_probe false, or leave the test images out"
        )

    def loader(images: ImageSet) -> EvaluationLoader:
        return create_evaluation_loader(options, images, recipe.evaluation_views, shard)

    known_images = train if has_labels or held_out is None else held_out
    if not has_labels:  # RankMe alone is computed of them
        known_images = choose_some(known_images, MOST_RANKED, options.seed)
    with_test = FrozenEvaluation(
        train=loader(known_images),
        test=loader(test) if test and labelled else None,
        knn_k=options.knn_k,
        knn_temperature=options.knn_temperature,
        linear_probe=options.linear_probe,
        autocast=autocast_on_gpu(accelerator),
    )
    if not has_labels:
        images = held_out or train
        measures = create_unlabelled_evaluation(recipe, accelerator, shard, images, held_out)
        return Evaluations(with_test, None, measures)
    with_held_out = replace(with_test, test=loader(held_out)) if held_out else None
    return Evaluations(with_test, with_held_out, None)
