"""What a frozen backbone is worth. Accuracies are percentages."""

from sslortho.evaluate.accuracy import AccuracyCounts, evaluate_classifier, predict_classes
from sslortho.evaluate.collapse import feature_std, rankme
from sslortho.evaluate.features import extract_features, feature_batches, local_features
from sslortho.evaluate.frozen import FrozenEvaluation
from sslortho.evaluate.knn import PRESETS, NeighbourSearch, knn_accuracy, knn_predict, vote
from sslortho.evaluate.linear_probe import LogisticRegression, Selection, Trial, select_l2
from sslortho.evaluate.report import ReportPicture, ReportTable

__all__ = [
    "PRESETS",
    "AccuracyCounts",
    "FrozenEvaluation",
    "LogisticRegression",
    "NeighbourSearch",
    "ReportPicture",
    "ReportTable",
    "Selection",
    "Trial",
    "evaluate_classifier",
    "extract_features",
    "feature_batches",
    "feature_std",
    "knn_accuracy",
    "knn_predict",
    "local_features",
    "predict_classes",
    "rankme",
    "select_l2",
    "vote",
]
