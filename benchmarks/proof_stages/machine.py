"""The machine that the figures are of."""

import platform
from datetime import datetime, timezone
from importlib.util import find_spec
from typing import Any

import torch

from loading_bench.results import find_processor
from sslortho.data import available_cores
from sslortho.runs.provenance import versions

from .context import Context


def describe(context: Context) -> dict[str, Any]:
    """Hardware, versions, and whether this was a rehearsal.

    Raises RuntimeError where there is no GPU and this is no rehearsal.
    """
    figures: dict[str, Any] = {
        "rehearsal": context.small,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": context.commit,
        "processor": find_processor(),
        "cores": available_cores(),
        "python": platform.python_version(),
        "versions": versions(),
        "packages": {name: bool(find_spec(name)) for name in ("triton", "kornia", "dion", "ffcv")},
    }
    if context.small:
        return figures
    properties = torch.cuda.get_device_properties(0)
    return {
        **figures,
        "gpu": properties.name,
        "gpu_gib": round(properties.total_memory / 2**30, 1),
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
