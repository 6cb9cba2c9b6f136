"""What one batch means: views and labels to a loss and metrics. One file a method."""

from sslortho.methods.classification import Classification
from sslortho.methods.registry import METHODS, load_method
from sslortho.methods.task import Method, Task

__all__ = ["METHODS", "Classification", "Method", "Task", "load_method"]
