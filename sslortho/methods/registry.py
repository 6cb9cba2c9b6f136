"""Methods of pretraining by name. A new one is a file here, a line below, and a YAML in configs/."""

import difflib
import importlib

from sslortho.methods.task import Method

METHODS = {
    "barlow_twins": "BarlowTwins",
    "simclr": "SimCLR",
    "vicreg": "VICReg",
    "byol": "BYOL",
    "simsiam": "SimSiam",
    "moco_v2": "MoCoV2",
    "dino": "DINO",
}
"""Name, which is that of the file too, to class."""


def load_method(name: str) -> type[Method]:
    """The class of a method; imported now, since lightly, which most need, takes its time.

    Raises ValueError for an unknown name.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(str(name), METHODS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"method={name!r} is not one of {', '.join(METHODS)}{hint}")
    return getattr(importlib.import_module(f"sslortho.methods.{name}"), METHODS[name])
