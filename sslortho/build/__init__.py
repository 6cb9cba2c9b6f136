"""From a configuration to objects: the only place that knows both."""

from sslortho.build.backbone import load_subject
from sslortho.build.conclusion import conclude, look_at
from sslortho.build.data import build_train_loader, load_training_set
from sslortho.build.evaluation import (
    ClassifierTraining,
    Evaluation,
    backbone_rate,
    build_classification,
    build_classification_optimizer,
    build_fast_probe,
    build_knn_evaluation,
    build_linear_evaluation,
    neighbours_and_temperature,
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
from sslortho.build.supervised import Supervised, build_supervised

__all__ = [
    "ClassifierTraining",
    "Evaluation",
    "Pretraining",
    "Supervised",
    "backbone_info",
    "backbone_rate",
    "build_backbone",
    "build_classification",
    "build_classification_optimizer",
    "build_fast_probe",
    "build_knn_evaluation",
    "build_linear_evaluation",
    "build_optimizer",
    "build_pretraining",
    "build_supervised",
    "build_task",
    "build_train_loader",
    "conclude",
    "create_views",
    "load_subject",
    "load_training_set",
    "look_at",
    "neighbours_and_temperature",
    "views_name",
]
