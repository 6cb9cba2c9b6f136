"""Evaluation of a pretraining: kNN during training, all measures at the end."""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sslortho.data import EvaluationLoader
from sslortho.evaluate.collapse import feature_std, rankme
from sslortho.evaluate.features import (
    Context,
    extract_features,
    feature_batches,
    gather_rows,
    local_features,
)
from sslortho.evaluate.knn import knn_accuracy
from sslortho.evaluate.linear_probe import LogisticRegression
from sslortho.evaluate.neighbours import NeighbourSearch


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Percentage of equal entries."""
    return 100 * float((predictions == labels).double().mean())


def _extract_test(
    backbone: nn.Module, test: EvaluationLoader, autocast: Context = nullcontext
) -> tuple[Tensor, Tensor]:
    """Features and labels of the test set. Raises ValueError if it has no images."""
    features, labels = extract_features(backbone, test, autocast)
    if not len(labels):
        raise ValueError("the test set has no images, so nothing can be evaluated: give test=None")
    return features, labels


@dataclass(frozen=True)
class FrozenEvaluation:
    """Figures of a frozen backbone on a training and a test set.

    Every rank must call; each extracts its share, and all get the same figures. Every rank holds all
    features of the test set. It holds its own share of the training set only for the linear probe.

    Args:
        train: evaluation views of the training set.
        test: evaluation views of the test set; None leaves only the measures that need no labels.
        knn_k: neighbours, see `NeighbourSearch`.
        knn_temperature: see `vote`.
        linear_probe: whether `final` fits a linear probe.
        autocast: makes the context that the backbone runs in for `online`. `final` runs without it: the
            rounding of bfloat16 raises a RankMe of 2 to 2.5, and so hides a collapse.
    """

    train: EvaluationLoader
    test: EvaluationLoader | None
    knn_k: int = 20
    knn_temperature: float = 0.07
    linear_probe: bool = True
    autocast: Context = nullcontext

    def online(self, backbone: nn.Module) -> dict[str, float]:
        """{"knn_top1": percentage}, cheap enough for every few epochs; empty without a test set."""
        if self.test is None:
            return {}
        test, test_labels = _extract_test(backbone, self.test, self.autocast)
        return self._stream(backbone, test, test_labels, self.autocast)

    def _stream(
        self,
        backbone: nn.Module,
        test: Tensor,
        test_labels: Tensor,
        autocast: Context = nullcontext,
    ) -> dict[str, float]:
        search = NeighbourSearch(test, self.knn_k)
        labels = [torch.empty(0, dtype=torch.int64, device=test.device)]
        for features, batch_labels in feature_batches(backbone, self.train, autocast):
            search.add(features)
            labels.append(batch_labels)
        return self._knn(search, torch.cat(labels), test_labels)

    def _knn(
        self, search: NeighbourSearch, labels: Tensor, test_labels: Tensor
    ) -> dict[str, float]:
        labels = gather_rows(labels)
        similarities, neighbours = search.result()
        classes = max(1, int(max(labels.max(), test_labels.max())) + 1)
        figures = knn_accuracy(
            similarities, labels[neighbours], test_labels, classes, self.knn_temperature
        )
        return {"knn_top1": figures["top1"]}

    def final(self, backbone: nn.Module) -> dict[str, float]:
        """{"knn_top1", "linear_top1"} in percent, and "rankme" and "feature_std" of the test features.

        Without a test set only the latter two, of the training features.
        """
        if self.test is None:
            unlabelled, _ = extract_features(backbone, self.train)
            return {"rankme": rankme(unlabelled), "feature_std": feature_std(unlabelled)}
        test, test_labels = _extract_test(backbone, self.test)
        if self.linear_probe:
            search = NeighbourSearch(test, self.knn_k)
            train, train_labels = local_features(backbone, self.train, each=search.add)
            figures = self._knn(search, train_labels, test_labels)
            probe = LogisticRegression(train, train_labels)
            figures["linear_top1"] = accuracy(probe.predict(test), test_labels)
        else:
            figures = self._stream(backbone, test, test_labels)
        return {**figures, "rankme": rankme(test), "feature_std": feature_std(test)}
