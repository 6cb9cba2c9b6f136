"""From a configuration to objects: the only place that knows both."""

from sslortho.build.conclusion import conclude
from sslortho.build.data import build_train_loader, load_training_set
from sslortho.build.evaluation import (
    Evaluation,
    KnnEvaluation,
    LinearEvaluation,
    backbone_rate,
    build_classification,
    build_classification_optimizer,
    build_knn_evaluation,
    build_linear_evaluation,
    load_subject,
    views_name,
)
from sslortho.build.pretraining import (
    Pretraining,
    backbone_info,
    build_backbone,
    build_optimizer,
    build_pretraining,
    build_task,
    create_views,
)

__all__ = [
    "Evaluation",
    "KnnEvaluation",
    "LinearEvaluation",
    "Pretraining",
    "backbone_info",
    "backbone_rate",
    "build_backbone",
    "build_classification",
    "build_classification_optimizer",
    "build_knn_evaluation",
    "build_linear_evaluation",
    "build_optimizer",
    "build_pretraining",
    "build_task",
    "build_train_loader",
    "conclude",
    "create_views",
    "load_subject",
    "load_training_set",
    "views_name",
]
