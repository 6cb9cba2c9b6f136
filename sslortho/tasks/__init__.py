"""What one batch means: views and labels to a loss and metrics. One file a method."""

from sslortho.tasks.barlow_twins import BarlowTwins
from sslortho.tasks.classification import Classification
from sslortho.tasks.task import Task

__all__ = ["BarlowTwins", "Classification", "Task"]
