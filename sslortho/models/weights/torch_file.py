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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LEGACY_PICKLES = 4
"""Pickles in a row at the start of a file from before torch 1.6: magic number, version, system, content."""


MOST_DICTIONARIES = 100_000
"""Most dictionaries that a checkpoint may hold. Some that hold each other would be searched for ever."""


class Inert:
    """Stand-in for a class or function: accepts any arguments and any state, and does nothing.

    The state, which is made of plain containers, tensors and other stand-ins, is kept to be read.
    """

    kept_state: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.kept_state = state


def read_plain(value: Any, depth: int = 8) -> Any:
    """Value with the settings that stand-ins keep as plain dictionaries; None for other objects.

    It reads argparse.Namespace, whose state is a dictionary, and omegaconf's DictConfig, whose state
    has its items under "_content" and each value under "_val".
    """
    if isinstance(value, Inert):
        state = value.kept_state
        if not isinstance(state, dict):
            return None
        for inner in ("_content", "_val"):
            if inner in state:
                return read_plain(state[inner], depth)
        value = state
    if isinstance(value, dict):
        if not depth:
            return None
        return {k: read_plain(v, depth - 1) for k, v in value.items() if isinstance(k, str)}
    return value if isinstance(value, str | int | float | bool) else None


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


def _find_dictionaries(
    content: Any, place: str, depth: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(content, dict) or "param_groups" in content or not depth:
        return
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    yield place, named
    for key, value in named.items():
        yield from _find_dictionaries(value, f"{place}.{key}" if place else key, depth - 1)


def find_state_dicts(content: Any) -> dict[str, dict[str, Tensor]]:
    """Find the state dicts in a checkpoint, by their dotted place in it.

    A state dict is a dictionary with a tensor of two or more dimensions; the states of generators and
    stored figures have fewer. Optimizers' state dicts (with "param_groups") are left out, and so is
    everything more than eight dictionaries deep.

    Raises:
        ValueError: there are more than MOST_DICTIONARIES dictionaries.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for count, (place, named) in enumerate(_find_dictionaries(content, "", depth=8), start=1):
        if count > MOST_DICTIONARIES:
            raise ValueError(f"it holds more than {MOST_DICTIONARIES} dictionaries")
        tensors = {key: value.detach() for key, value in named.items() if isinstance(value, Tensor)}
        if any(tensor.ndim >= 2 for tensor in tensors.values()):
            found[place] = tensors
    return found
