"""What a frozen backbone is worth. Accuracies are percentages."""

from sslortho.evaluate.accuracy import AccuracyCounts, NonFiniteScoresError, evaluate_classifier
from sslortho.evaluate.collapse import feature_std, rankme
from sslortho.evaluate.features import extract_features, feature_batches, local_features
from sslortho.evaluate.frozen import FrozenEvaluation
from sslortho.evaluate.knn import PRESETS, NeighbourSearch, knn_accuracy, knn_predict, vote
from sslortho.evaluate.l2_selection import HELD_OUT, Selection, Trial, select_l2
from sslortho.evaluate.linear_probe import LogisticRegression
from sslortho.evaluate.inspection import Looks, choose_looks, find_looks
from sslortho.runs.report import ReportPicture, ReportTable

__all__ = [
    "HELD_OUT",
    "PRESETS",
    "AccuracyCounts",
    "FrozenEvaluation",
    "LogisticRegression",
    "Looks",
    "NeighbourSearch",
    "NonFiniteScoresError",
    "ReportPicture",
    "ReportTable",
    "Selection",
    "Trial",
    "choose_looks",
    "evaluate_classifier",
    "extract_features",
    "feature_batches",
    "feature_std",
    "find_looks",
    "knn_accuracy",
    "knn_predict",
    "local_features",
    "rankme",
    "select_l2",
    "vote",
]
