"""Figures of a pretraining whose images have no labels: agreement of views, loss of held-out images."""

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from sslortho.data import ImageSet, TrainLoader
from sslortho.data.loading import Shard, create_train_loader
from sslortho.evaluate import alignment, neighbour_agreement, pair_ranking, uniformity
from sslortho.evaluate.features import evaluation_mode
from sslortho.methods.task import Task
from sslortho.recipes.fitted import settled
from sslortho.recipes.pretrain.resolve import PretrainRecipe

MOST_IMAGES = 1024
"""Images whose views are compared: the figure depends on their number, so large data have one number."""

BATCH = 64
"""Most images of a batch of these."""


@dataclass(frozen=True)
class UnlabelledEvaluation:
    """Measures without labels. Every rank must call; all get the same figures."""

    accelerator: Accelerator
    pairs: TrainLoader
    """Two views of the images that are compared; every rank has all of them."""
    held_out: TrainLoader | None
    """Views of the held-out images, this rank's share; None if none are held out."""

    def online(self, task: Task) -> dict[str, float]:
        """{"val_loss": loss of the held-out images} for every few epochs; empty without such images."""
        return {} if self.held_out is None else {"val_loss": self._loss(task, self.held_out)}

    def final(self, task: Task) -> dict[str, float]:
        """The same with "neighbour_agreement" and "pair_ranking" in percent, "alignment" and "uniformity";
        see the functions of these names."""
        first: list[Tensor] = []
        second: list[Tensor] = []
        with evaluation_mode(task.backbone), torch.no_grad():
            for batch in self.pairs:
                one, other = batch.views[:2]
                first.append(task.backbone(one))
                second.append(task.backbone(other))
        one, other = torch.cat(first).float(), torch.cat(second).float()
        return {
            "neighbour_agreement": neighbour_agreement(one, other),
            "pair_ranking": pair_ranking(one, other),
            "alignment": alignment(one, other),
            "uniformity": uniformity(one),
            **self.online(task),
        }

    def _loss(self, task: Task, loader: TrainLoader) -> float:
        """Mean loss over the batches, in evaluation mode; queues and centres stay as they were."""
        before = [buffer.clone() for buffer in task.buffers()]
        losses = []
        with evaluation_mode(task), torch.no_grad(), self.accelerator.autocast():
            for batch in loader:
                loss = task(batch.views, batch.labels)["loss"]
                losses.append(loss.float().clone())  # the next replay of a CUDA graph overwrites it
                for buffer, value in zip(task.buffers(), before, strict=True):
                    buffer.copy_(value)
        mean = self.accelerator.reduce(torch.stack(losses).mean(), reduction="mean")
        assert isinstance(mean, Tensor)
        return float(mean)


def even_batch(images: int, most: int, ranks: int = 1) -> int:
    """Size of as few equal batches as hold `images`, each of `most` or fewer, a multiple of `ranks`.

    Loaders of training views drop what does not fill a batch: of 500 images 244 with batches of 256, and
    none with batches of 250.
    """
    batches = -(-images // most)
    return max(images // batches // ranks, 1) * ranks


def create_unlabelled_evaluation(
    recipe: PretrainRecipe,
    accelerator: Accelerator,
    shard: Shard,
    images: ImageSet,
    held_out: ImageSet | None,
) -> UnlabelledEvaluation:
    """Loaders of the measures; the views are those of training, drawn for epoch 0.

    Args:
        recipe: of the run.
        accelerator, shard: of this rank.
        images: whose views are compared, at most MOST_IMAGES of them; the held-out ones if there are some.
        held_out: images of the loss, in batches of equal size, at most that of training.

    Of both fewer images than there are batches (times ranks) are left out, so that batches are equal.

    Raises ValueError for fewer held-out images than ranks.
    """
    options = recipe.options
    if len(images) > MOST_IMAGES:
        generator = torch.Generator().manual_seed(options.seed)
        order = torch.randperm(len(images), generator=generator)[:MOST_IMAGES]
        images = images.select(order.sort().values)
    alone = Shard(shard.device)
    batch = even_batch(len(images), BATCH)
    pairs = create_train_loader(options, images, recipe.pair, batch, alone)
    if held_out is None:
        return UnlabelledEvaluation(accelerator, pairs, None)
    if len(held_out) < shard.count:
        raise ValueError(
            f"validation={options.validation} holds out {len(held_out)} images, fewer than the "
            f"{shard.count} ranks; raise it"
        )
    usual = settled(options.batch_size) // options.accumulation_steps
    batch = even_batch(len(held_out), usual, shard.count)
    loader = create_train_loader(options, held_out, recipe.views, batch, shard)
    return UnlabelledEvaluation(accelerator, pairs, loader)
