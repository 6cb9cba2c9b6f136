"""Reading torch files of other projects without running what they hold.

A checkpoint of Lightning, or of a script that stored its arguments, names classes that torch's
`weights_only` refuses: omegaconf's DictConfig, pathlib's paths, argparse.Namespace. The tensors beside
them need none of those. Each class is replaced by a stand-in that takes what it is given and does
nothing, so nothing of the file's choosing is ever imported or called.
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
"""Files written before torch 1.6 are pickles in a row: magic number, version, system, content."""

_MARK = object()


class Inert:
    """In place of any class or function: takes all arguments and any state, and forgets them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class InertMapping(Inert):
    """In place of a class whose objects are given items by key: makes a plain dictionary."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return OrderedDict()  # and not dict: torch restores attributes of this one too


class InertList(Inert):
    """In place of a class whose objects are appended to: makes a plain list."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return []


_ON_AN_OBJECT = {
    "NEWOBJ": None,
    "REDUCE": None,
    "BUILD": None,
    "SETITEM": InertMapping,
    "SETITEMS": InertMapping,
    "APPEND": InertList,
    "APPENDS": InertList,
}
"""Operations that change the object beneath their operands, and what that object must then be."""


def _pop_operands(stack: list[Any], operands: list[Any]) -> None:
    if pickletools.markobject in operands:
        while stack.pop() is not _MARK:
            pass
        operands = operands[: operands.index(pickletools.markobject)]
    if operands:
        del stack[-len(operands) :]


def _kinds_in_use(content: bytes) -> dict[str, type[Inert]]:
    """What objects must be that are given items, by the "module.name" of their class.

    The pickle is followed step by step with nothing but those names in it.
    """
    kinds: dict[str, type[Inert]] = {}
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for operation, argument, _ in pickletools.genops(content):
        name, operands = operation.name, operation.stack_before
        if name == "GLOBAL":
            stack.append(str(argument).replace(" ", "."))
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in _ON_AN_OBJECT:  # an object goes by the name of its class
            _pop_operands(stack, operands[1:])
            if (kind := _ON_AN_OBJECT[name]) and stack[-1]:
                kinds[stack[-1]] = kind
        else:
            _pop_operands(stack, operands)
            stack += [None] * len(operation.stack_after)
    return kinds


def _check_stored(path: Path) -> None:
    """Raise ValueError if what torch reads is compressed: it never writes so, and a little may hold a lot."""
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            read = record.filename.endswith("/data.pkl") or "/data/" in record.filename
            if read and record.compress_type != zipfile.ZIP_STORED:
                raise ValueError(
                    f"{record.filename} in it is compressed, which torch.save never does"
                )


def _pickle_of(path: Path, zipped: bool) -> bytes:
    """The pickle with a file's content, without its tensors."""
    if zipped:
        with zipfile.ZipFile(path) as archive:
            # archive/data.pkl, whatever the archive's name
            names = [name for name in archive.namelist() if name.split("/", 1)[-1] == "data.pkl"]
            return archive.read(names[0])
    with path.open("rb") as file:
        start = 0
        for _ in range(LEGACY_PICKLES):
            start = file.tell()
            for _ in pickletools.genops(file):
                pass
        length = file.tell() - start
        file.seek(start)
        return file.read(length)


def _stand_ins(content: bytes) -> dict[str, type[Inert]]:
    """A stand-in for every class in a pickle that torch does not allow."""
    # torch tells them of its newer files alone, so an older one's pickle is put into such
    newer = io.BytesIO()
    with zipfile.ZipFile(newer, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3")
    newer.seek(0)
    refused = torch.serialization.get_unsafe_globals_in_checkpoint(newer)
    kinds = _kinds_in_use(content)
    return {name: kinds.get(name, Inert) for name in refused}


def load_torch_file(path: Path) -> tuple[Any, tuple[str, ...]]:
    """The content of a file of torch.save on the CPU, and which classes were replaced by stand-ins.

    Only ever by `weights_only=True`: torch builds tensors and plain containers, stand-ins the rest.
    Tensors of files since torch 1.6 are mapped, so what is not used is not read either.

    Raises ValueError for compressed content, else whatever torch raises for a file that is none, is
    damaged, or calls into the system.
    """
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    if zipped:
        _check_stored(path)
    options: dict[str, Any] = {"map_location": "cpu", "mmap": zipped}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")  # fails below, then
        try:
            return torch.load(path, weights_only=True, **options), ()
        except pickle.UnpicklingError:
            stand_ins = _stand_ins(_pickle_of(path, zipped))
            if not stand_ins:
                raise
        with torch.serialization.safe_globals([(kind, name) for name, kind in stand_ins.items()]):
            return torch.load(path, weights_only=True, **options), tuple(sorted(stand_ins))
