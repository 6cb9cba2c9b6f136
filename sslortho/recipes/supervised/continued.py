"""Did training from initial weights help the features? Nearest neighbours before and after it."""

from torch import nn

from sslortho.evaluate import FrozenEvaluation
from sslortho.recipes.evaluation import ClassifierTraining
from sslortho.train.launch import autocast_on_gpu

NEIGHBOURS = 20
"""Voters, as in pretraining; all training images if there are fewer."""


def compare_features(run: ClassifierTraining, before: nn.Module) -> dict[str, float]:
    """{"knn_top1", "initial_knn_top1"}: percentage of the test images, of the trained features and before.

    Every rank must call.

    Args:
        run: its backbone is the trained one.
        before: backbone with its initial weights.
    """
    evaluation = FrozenEvaluation(
        train=run.evaluation_loader(run.data.train),
        test=run.test,
        knn_k=min(NEIGHBOURS, len(run.data.train)),
        linear_probe=False,
        autocast=autocast_on_gpu(run.accelerator),
    )
    backbones = {"": run.task.backbone, "initial_": before.to(run.accelerator.device)}
    return {
        f"{state}{name}": value
        for state, backbone in backbones.items()
        for name, value in evaluation.online(backbone).items()
    }
