"""Reading of torch files without running what they hold.

A checkpoint of Lightning, or of a script that stored its arguments, names classes that torch's
`weights_only` refuses: omegaconf's DictConfig, pathlib's paths, argparse.Namespace. The tensors beside
them need none of these. So each refused class is replaced by a stand-in, which accepts what the file
gives it and does nothing: no code of the file's choosing is ever imported or called.
"""

import io
import pickle
import pickletools
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

LEGACY_PICKLES = 4
"""Pickles in a row at the start of a file from before torch 1.6: magic number, version, system, content."""


class Inert:
    """Stand-in for a class or function: accepts any arguments and any state, and keeps nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class InertDict(Inert):
    """Stand-in for a subclass of dict. torch fills none but its own dictionaries, so it makes one."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return OrderedDict()  # not dict: torch restores attributes of an OrderedDict too


class InertList(Inert):
    """Stand-in for a class whose objects are appended to. torch appends to lists, so it makes one."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return []


CONTAINERS: dict[str, type[Inert]] = {
    "addict.addict.Dict": InertDict,
    "box.box.Box": InertDict,
    "collections.defaultdict": InertDict,
    "collections.deque": InertList,
    "detectron2.config.config.CfgNode": InertDict,
    "easydict.EasyDict": InertDict,
    "fvcore.common.config.CfgNode": InertDict,
    "lightning.fabric.utilities.data.AttributeDict": InertDict,
    "lightning.pytorch.utilities.parsing.AttributeDict": InertDict,
    "lightning_fabric.utilities.data.AttributeDict": InertDict,
    "mmcv.utils.config.ConfigDict": InertDict,
    "mmengine.config.config.ConfigDict": InertDict,
    "munch.Munch": InertDict,
    "pytorch_lightning.utilities.parsing.AttributeDict": InertDict,
    "yacs.config.CfgNode": InertDict,
}
"""Classes whose objects torch fills itself, item by item. Objects of any other class are given
arguments and a state alone, for which `Inert` is enough."""


def _create_stand_in(name: str) -> type[Inert]:
    """Class that is called like the one in the file, so torch's errors name that one."""
    module, _, own_name = name.rpartition(".")
    return type(own_name, (CONTAINERS.get(name, Inert),), {"__module__": module})


def _check_stored(path: Path) -> None:
    """Raise ValueError if the file is compressed: torch never does that, and a bomb would."""
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            read = record.filename.endswith("/data.pkl") or "/data/" in record.filename
            if read and record.compress_type != zipfile.ZIP_STORED:
                raise ValueError(
                    f"{record.filename} in it is compressed, which torch.save never does"
                )


def _find_refused(path: Path, zipped: bool) -> list[str]:
    """Names of the classes and functions in a file that torch does not allow."""
    if zipped:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    newer = io.BytesIO()  # torch lists those of zipped files only, so the pickle is zipped
    with path.open("rb") as file, zipfile.ZipFile(newer, "w") as archive:
        start = 0
        for _ in range(LEGACY_PICKLES):
            start = file.tell()
            for _ in pickletools.genops(file):  # to the end of this pickle
                pass
        length = file.tell() - start
        file.seek(start)
        archive.writestr("archive/data.pkl", file.read(length))
        archive.writestr("archive/version", "3")
    newer.seek(0)
    return torch.serialization.get_unsafe_globals_in_checkpoint(newer)


def _load_with_stand_ins(path: Path, stand_ins: dict[str, type[Inert]], **options: Any) -> Any:
    try:
        with torch.serialization.safe_globals([(cls, name) for name, cls in stand_ins.items()]):
            return torch.load(path, weights_only=True, **options)
    except pickle.UnpicklingError as error:
        for name, cls in stand_ins.items():
            if str(cls) in str(error):
                raise ValueError(
                    f"it holds a {name}, a kind of dictionary or list that is not known here"
                ) from error
        raise


def load_torch_file(path: Path) -> tuple[Any, tuple[str, ...]]:
    """Load a file of torch.save on the CPU. The second result names the classes that were replaced.

    Always by `weights_only=True`: torch makes tensors and plain containers, stand-ins take the place of
    everything else. Tensors of files since torch 1.6 are mapped into memory, so only those that are
    used are read.

    Raises:
        ValueError: the content is compressed, or a dictionary or list is of a class not in CONTAINERS.
        Exception: whatever torch raises for a file that is damaged, is not one of torch.save, or calls
            into the system.
    """
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    if zipped:
        _check_stored(path)
    options: dict[str, Any] = {"map_location": "cpu", "mmap": zipped}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")  # the load fails anyway
        try:
            return torch.load(path, weights_only=True, **options), ()
        except pickle.UnpicklingError:
            stand_ins = {name: _create_stand_in(name) for name in _find_refused(path, zipped)}
            if not stand_ins:
                raise
        return _load_with_stand_ins(path, stand_ins, **options), tuple(sorted(stand_ins))
