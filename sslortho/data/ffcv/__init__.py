"""FFCV's own way with betons, for those who have FFCV: see `require_ffcv`.

Nothing else in this package needs it: `data.beton` writes, checks and reads betons without FFCV.
"""

import importlib
import warnings
from types import ModuleType

import torch


def require_ffcv() -> ModuleType:
    """The module `sslortho.data.ffcv.source`, which needs FFCV.

    Raises ValueError, saying how to install it, if FFCV is missing or does not load.
    """
    threads = torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            # they are about FFCV's use of other libraries, which users cannot change
            warnings.simplefilter("ignore")
            importlib.import_module("ffcv.loader")
    except (ImportError, OSError, RuntimeError) as error:
        raise ValueError(
            f"FFCV is missing ({error}). --data beton does not need it, FFCV's own Loader does: apt-get "
            "install build-essential pkg-config libturbojpeg0-dev libopencv-dev, then pip install "
            "'sslortho[ffcv]'"
        ) from error
    finally:
        torch.set_num_threads(threads)  # importing FFCV leaves torch one thread
    return importlib.import_module("sslortho.data.ffcv.source")


__all__ = ["require_ffcv"]
