"""Methods of pretraining, one a file, and classification: a batch to a loss and figures for the log.

Names are imported when they are first used, so `sslortho.methods.options` costs no import of torch.
"""

from typing import TYPE_CHECKING

from sslortho.lazy import import_on_use

if TYPE_CHECKING:
    from sslortho.methods.classification import Classification
    from sslortho.methods.registry import METHODS, load_method
    from sslortho.methods.task import Method, Task

_HOME = {
    "METHODS": "sslortho.methods.registry",
    "Classification": "sslortho.methods.classification",
    "Method": "sslortho.methods.task",
    "Task": "sslortho.methods.task",
    "load_method": "sslortho.methods.registry",
}
"""Public name to the module that defines it."""

__all__ = ["METHODS", "Classification", "Method", "Task", "load_method"]

__getattr__ = import_on_use(__name__, _HOME)
