"""Betons: FFCV's .beton files, written and checked here, and read by loaders through FFCV.

FFCV is an extra. Only `source` and `decoders` import it, and `images.require_ffcv` imports these.
"""

from sslortho.data.ffcv.beton import BetonFile, read_beton
from sslortho.data.ffcv.images import BetonImages, load_beton, require_ffcv
from sslortho.data.ffcv.manifest import manifest_path
from sslortho.data.ffcv.writer import write_beton

__all__ = [
    "BetonFile",
    "BetonImages",
    "load_beton",
    "manifest_path",
    "read_beton",
    "require_ffcv",
    "write_beton",
]
