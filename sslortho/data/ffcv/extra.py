"""FFCV is an extra: asked for here, with a message that says how to get it."""

import importlib
import warnings
from types import ModuleType

import torch


def require_ffcv() -> ModuleType:
    """`sslortho.data.ffcv.source`, which needs FFCV.

    Raises ValueError with what to install if FFCV is missing or does not load.
    """
    threads = torch.get_num_threads()
    try:
        with warnings.catch_warnings():  # its use of other libraries is not the user's to mend
            warnings.simplefilter("ignore")
            importlib.import_module("ffcv.loader")
    except (ImportError, OSError, RuntimeError) as error:
        raise ValueError(
            f"data='beton' needs FFCV ({error}): apt-get install build-essential pkg-config "
            "libturbojpeg0-dev libopencv-dev, then pip install 'sslortho[ffcv]'; or read the image "
            "files themselves with --data folder"
        ) from error
    finally:
        torch.set_num_threads(threads)  # importing FFCV leaves torch one thread
    return importlib.import_module("sslortho.data.ffcv.source")
