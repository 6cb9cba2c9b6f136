"""What one batch means: views and labels to a loss and metrics. One file a method."""

from sslortho.tasks.classification import Classification
from sslortho.tasks.methods import METHODS, load_method
from sslortho.tasks.task import Method, Task

__all__ = ["METHODS", "Classification", "Method", "Task", "load_method"]
