"""What a frozen backbone is worth. Accuracies are percentages."""

from sslortho.evaluate.collapse import feature_std, rankme
from sslortho.evaluate.features import extract_features
from sslortho.evaluate.frozen import FrozenEvaluation
from sslortho.evaluate.knn import knn_predict
from sslortho.evaluate.linear_probe import LogisticRegression

__all__ = [
    "FrozenEvaluation",
    "LogisticRegression",
    "extract_features",
    "feature_std",
    "knn_predict",
    "rankme",
]
