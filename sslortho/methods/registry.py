"""Methods of pretraining by name.

A new method is a file here, its options in options.py, a line below, its views in
augment/published_views.py under the same name, and a YAML in configs/.
"""

import importlib

from sslortho.methods.options import options_of_method
from sslortho.methods.task import Method

METHODS = {
    "barlow_twins": "BarlowTwins",
    "simclr": "SimCLR",
    "vicreg": "VICReg",
    "byol": "BYOL",
    "simsiam": "SimSiam",
    "moco_v2": "MoCoV2",
    "dino": "DINO",
    "lejepa": "LeJEPA",
    "emp_ssl": "EMPSSL",
}
"""Name of a method, which is that of its file too, to its class."""


def load_method(name: str) -> type[Method]:
    """Import and return the class of a method.

    Raises:
        ValueError: there is no method of this name.
    """
    options_of_method(name)  # raises for an unknown name
    return getattr(importlib.import_module(f"sslortho.methods.{name}"), METHODS[name])
