"""Evaluation of a frozen backbone. Accuracies are percentages."""

from sslortho.evaluate.accuracy import AccuracyCounts, NonFiniteScoresError, evaluate_classifier
from sslortho.evaluate.agreement import neighbour_agreement, pair_ranking
from sslortho.evaluate.collapse import feature_std, rankme
from sslortho.evaluate.features import extract_features, feature_batches, local_features
from sslortho.evaluate.figures import Picture, Table
from sslortho.evaluate.frozen import FrozenEvaluation
from sslortho.evaluate.inspection import (
    InspectedImages,
    Inspection,
    draw_inspection,
    inspect_features,
    inspect_neighbours,
)
from sslortho.evaluate.knn import PRESETS, knn_accuracy, knn_predict, vote
from sslortho.evaluate.l2_selection import HELD_OUT, Selection, Trial, select_l2
from sslortho.evaluate.linear_probe import LogisticRegression
from sslortho.evaluate.neighbours import NeighbourSearch
from sslortho.evaluate.variety import contrast, distinct_share, view_difference
from sslortho.evaluate.verdict import Finding, Verdict, diagnose
from sslortho.evaluate.view_pairs import alignment, uniformity

__all__ = [
    "HELD_OUT",
    "PRESETS",
    "AccuracyCounts",
    "Finding",
    "FrozenEvaluation",
    "InspectedImages",
    "Inspection",
    "LogisticRegression",
    "NeighbourSearch",
    "NonFiniteScoresError",
    "Picture",
    "Selection",
    "Table",
    "Trial",
    "Verdict",
    "alignment",
    "contrast",
    "diagnose",
    "distinct_share",
    "draw_inspection",
    "evaluate_classifier",
    "extract_features",
    "feature_batches",
    "feature_std",
    "inspect_features",
    "inspect_neighbours",
    "knn_accuracy",
    "knn_predict",
    "local_features",
    "neighbour_agreement",
    "pair_ranking",
    "rankme",
    "select_l2",
    "uniformity",
    "view_difference",
    "vote",
]
