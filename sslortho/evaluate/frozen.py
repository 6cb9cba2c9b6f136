"""The evaluation of pretraining: kNN on the way, everything at the end."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sslortho.data import EvaluationLoader
from sslortho.evaluate.collapse import feature_std, rankme
from sslortho.evaluate.features import extract_features
from sslortho.evaluate.knn import knn_predict
from sslortho.evaluate.linear_probe import LogisticRegression


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Percentage of equal entries."""
    return 100 * float((predictions == labels).double().mean())


@dataclass(frozen=True)
class FrozenEvaluation:
    """Figures of a frozen backbone on a training and a test set.

    Every rank must call; each extracts its share, and all get the same figures.

    Args:
        train: evaluation views of the training set.
        test: of the test set; None leaves only the measures that need no labels.
        knn_k, knn_temperature: see `knn_predict`.
        linear_probe: whether `final` fits one; its memory grows with images times classes.
    """

    train: EvaluationLoader
    test: EvaluationLoader | None
    knn_k: int = 20
    knn_temperature: float = 0.07
    linear_probe: bool = True

    def _features(self, backbone: nn.Module) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        if self.test is None:
            return None
        train, train_labels = extract_features(backbone, self.train)
        test, test_labels = extract_features(backbone, self.test)
        return train, train_labels, test, test_labels

    def online(self, backbone: nn.Module) -> dict[str, float]:
        """{"knn_top1": percentage}, cheap enough for every few epochs; empty without labels."""
        features = self._features(backbone)
        return {} if features is None else self._knn(*features)

    def _knn(
        self, train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor
    ) -> dict[str, float]:
        predictions = knn_predict(train, train_labels, test, self.knn_k, self.knn_temperature)
        return {"knn_top1": accuracy(predictions, test_labels)}

    def final(self, backbone: nn.Module) -> dict[str, float]:
        """kNN, the linear probe, and the collapse measures (of the test set where there is one)."""
        features = self._features(backbone)
        if features is None:
            unlabelled, _ = extract_features(backbone, self.train)
            return {"rankme": rankme(unlabelled), "feature_std": feature_std(unlabelled)}
        train, train_labels, test, test_labels = features
        if not torch.isfinite(train).all():
            raise ValueError("the backbone gives features that are not finite; nothing to evaluate")
        figures = self._knn(*features)
        if self.linear_probe:
            probe = LogisticRegression(train, train_labels)
            figures["linear_top1"] = accuracy(probe.predict(test), test_labels)
        return {**figures, "rankme": rankme(test), "feature_std": feature_std(test)}
