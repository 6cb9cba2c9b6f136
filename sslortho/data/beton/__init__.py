"""Betons: FFCV's .beton files, written, checked and read here without FFCV."""

from sslortho.data.beton.file_format import BetonFile, read_beton
from sslortho.data.beton.images import BetonImages, load_beton, open_beton
from sslortho.data.beton.manifest import manifest_path
from sslortho.data.beton.source import BetonSource
from sslortho.data.beton.writer import write_beton

__all__ = [
    "BetonFile",
    "BetonImages",
    "BetonSource",
    "load_beton",
    "manifest_path",
    "open_beton",
    "read_beton",
    "write_beton",
]
