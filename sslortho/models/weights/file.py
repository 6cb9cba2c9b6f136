"""Files of weights: writing our own, reading anyone's."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from sslortho.atomic import atomic_file
from sslortho.models.weights import solo_learn
from sslortho.models.weights.torch_file import find_state_dicts, load_torch_file

KINDS = "a run folder, or a file of weights (.safetensors, .pt, .pth, .ckpt, ...)"

MOST_CROP_SIZE = 8192
"""Largest believable side of the views, in pixels. A damaged or hostile file may say anything."""

Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class BackboneInfo:
    """Facts about a backbone's pretraining, in the metadata of its safetensors file."""

    backbone: str
    """Its name for `create_backbone`."""
    stem: str
    """Its stem for `create_backbone`."""
    crop_size: int
    """Side of the views in pixels."""
    mean: Triple
    """Mean of each channel, for values from 0 to 1; the normalisation subtracts it."""
    std: Triple
    """Standard deviation of each channel; the normalisation divides by it."""

    def to_metadata(self) -> dict[str, str]:
        """Fields as strings, numbers as JSON; `from_metadata` is the inverse."""
        values = asdict(self).items()
        return {k: value if isinstance(value, str) else json.dumps(value) for k, value in values}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "BackboneInfo | None":
        """Read the fields from metadata; None unless all are there, as in files that are not ours.

        Raises:
            ValueError: a value is malformed, or the crop size is out of range.
        """
        names = [f.name for f in fields(cls)]
        if not all(name in metadata for name in names):
            return None
        backbone, stem, *numbers = (metadata[name] for name in names)
        try:
            crop_size, mean, std = (json.loads(number) for number in numbers)
            red, green, blue = map(float, mean)
            std_red, std_green, std_blue = map(float, std)
            if not 1 <= int(crop_size) <= MOST_CROP_SIZE:
                raise ValueError(f"crop_size must be from 1 to {MOST_CROP_SIZE}")
            return cls(
                backbone=backbone,
                stem=stem,
                crop_size=int(crop_size),
                mean=(red, green, blue),
                std=(std_red, std_green, std_blue),
            )
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"its metadata {dict(metadata)} cannot be read ({error})") from error


def note_pretraining(network: nn.Module, info: BackboneInfo | None) -> None:
    """Let a network know how it was pretrained, so that its evaluation takes the same views."""
    object.__setattr__(network, "pretraining", info)


def pretraining_of(network: nn.Module) -> BackboneInfo | None:
    """How a network was pretrained, if `load_backbone` of the package or a training gave it."""
    info = vars(network).get("pretraining")
    return info if isinstance(info, BackboneInfo) else None


def write_backbone(backbone: nn.Module, path: Path, info: BackboneInfo | None = None) -> None:
    """Write a backbone's state dict as safetensors, under the names of the plain network.

    Args:
        backbone: network on any device, in any memory format.
        path: the file; an old one is replaced once the new one is whole.
        info: facts for the file's metadata.
    """
    state = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in backbone.state_dict().items()
    }
    # timm and transformers require "format"
    content = save(state, {"format": "pt", **(info.to_metadata() if info else {})})
    with atomic_file(path) as file:
        file.write(content)


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """Content of a file of weights: tensors by name, and what the file says about them."""

    path: Path
    """Path of the file; in a run folder, that of its backbone.safetensors."""
    state: dict[str, Tensor] = field(repr=False)
    """Tensors on the CPU. If a file holds several state dicts, names begin with the place of each."""
    info: BackboneInfo | None = None
    """Facts about the pretraining; None unless we wrote the file."""
    inside: str = ""
    """Place in the file of the only state dict: "model", "state_dict", ..."""
    lightning: bool = False
    """The file is a checkpoint of Lightning."""
    small_stem: str | None = None
    """Stem of its residual networks where they have a 3x3 first convolution: "small" in our checkpoints,
    "solo_learn" in solo-learn's. None where the file does not say."""
    left_out: tuple[str, ...] = ()
    """Classes in the file that torch refuses; stand-ins took the place of their objects."""


def _find_small_stem(content: Any, inside: str) -> str | None:
    if inside == "task":  # our checkpoint
        config = content.get("config")
        given = config.get("stem") if isinstance(config, dict) else None
        return "solo_learn" if given == "solo_learn" else "small"
    return "solo_learn" if solo_learn.wrote(content) else None


def _unreadable(path: Path, error: Exception) -> ValueError:
    # torch's messages are a page long, and advise loading unsafely
    lines = str(error).split("WeightsUnpickler error:")[-1].splitlines()
    advice = ("weights_only", "torch.load")
    lines = [line.strip() for line in lines if not any(word in line for word in advice)]
    reason = next((line for line in lines if line), "")
    return ValueError(
        f"backbone_from={str(path)!r} cannot be read as weights ({type(error).__name__}: "
        f"{reason[:200]}); it may be damaged or incomplete, or no file of weights. Code in a "
        "checkpoint is never run: write torch.save(model.state_dict(), ...) where it comes from"
    )


def _check_beginning(path: Path) -> None:
    with path.open("rb") as file:
        beginning = file.read(512)
    if not beginning:
        raise ValueError(f"backbone_from={str(path)!r} is empty; give {KINDS}")
    if beginning.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"backbone_from={str(path)!r} is a pointer to a file in git LFS, not the file; "
            "fetch it: git lfs pull"
        )
    if path.suffix in (".npz", ".npy", ".h5", ".onnx", ".tflite", ".msgpack"):
        raise ValueError(
            f"backbone_from={str(path)!r} is a file of another framework ({path.suffix}); convert it to "
            "a state dict of PyTorch first, as its project describes"
        )
    if beginning.isascii() and "".join(beginning.decode().split()).isprintable():
        raise ValueError(
            f"backbone_from={str(path)!r} is a text ({beginning[:40].decode()!r}...), perhaps a web "
            f"page in place of a download; give {KINDS}"
        )


def _read_safetensors(path: Path) -> WeightsFile:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        info = BackboneInfo.from_metadata(metadata)
    except Exception as error:  # safetensors raises a class of its own
        raise _unreadable(path, error) from error
    if not state:
        raise ValueError(f"backbone_from={str(path)!r} holds no tensors; give {KINDS}")
    return WeightsFile(path=path, state=state, info=info)


def _numpy_remedy(left_out: tuple[str, ...]) -> str:
    if not any(name.startswith("numpy.") for name in left_out):
        return ""
    return "; if its weights are arrays of numpy, write them as tensors: torch.from_numpy(array)"


def _read_torch(path: Path) -> WeightsFile:
    try:
        content, left_out = load_torch_file(path)
        found = find_state_dicts(content)
    except Exception as error:  # torch raises half a dozen classes for damaged files
        raise _unreadable(path, error) from error
    if not found:
        keys = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(
            f"backbone_from={str(path)!r} holds no weights by name (but {keys[:200]}); if it is a "
            "whole pickled model, write torch.save(model.state_dict(), ...) where its code is"
            + _numpy_remedy(left_out)
        )
    inside = next(iter(found)) if len(found) == 1 else ""
    if len(found) == 1:
        state = found[inside]
    else:
        state = {
            f"{place}.{name}" if place else name: tensor
            for place, tensors in found.items()
            for name, tensor in tensors.items()
        }
    lightning = isinstance(content, dict) and "pytorch-lightning_version" in content
    return WeightsFile(
        path=path,
        state=state,
        inside=inside,
        lightning=lightning,
        small_stem=_find_small_stem(content, inside),
        left_out=left_out,
    )


def _read_shards(index: Path) -> WeightsFile:
    """Read the files that an index of Hugging Face names: {"weight_map": {tensor: file}}."""
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(names.values()))
        # a name from the file must not lead out of its folder
        safe = files and all(isinstance(f, str) and Path(f).name == f for f in files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable(index, error) from error
    if not safe:
        raise ValueError(f"backbone_from={str(index)!r} names no files beside it as its shards")
    absent = [name for name in files if not (index.parent / name).is_file()]
    if absent:
        raise ValueError(
            f"backbone_from={str(index)!r} names {', '.join(absent[:3])}, which "
            f"{'is' if len(absent) == 1 else 'are'} not beside it; fetch all of its {len(files)} files"
        )
    state: dict[str, Tensor] = {}
    for name in files:
        state |= read_weights(index.parent / name).state
    lost = [name for name in names if name not in state]
    if lost:
        raise ValueError(
            f"backbone_from={str(index)!r} names {lost[0]!r}, which its files lack; they are not of one model"
        )
    return WeightsFile(path=index, state=state)


def _is_safetensors(path: Path) -> bool:
    """True for the suffix, or for the format in a file of another name: a length, then JSON."""
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        beginning = file.read(10)
    length = int.from_bytes(beginning[:8], "little")
    return beginning[8:] == b'{"' and 2 <= length <= path.stat().st_size - 8


def _has_diverged(summary: Path) -> bool:
    try:
        content = json.loads(summary.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("diverged") is True


def _file_of_run(folder: Path) -> Path:
    path = folder / "backbone.safetensors"
    if path.is_file():
        return path
    summary = folder / "summary.json"
    if summary.exists():
        if _has_diverged(summary):
            raise ValueError(
                f"backbone_from={str(folder)!r} is a run that diverged, and has no weights; train again with a "
                "lower lr and another out"
            )
        raise ValueError(
            f"backbone_from={str(folder)!r} is the run of an evaluation, which writes no backbone; give "
            "the one that it evaluated (backbone_from in its config.yaml)"
        )
    checkpoints = sorted((folder / "checkpoints").glob("step-*.pt"))
    if checkpoints or (folder / "config.yaml").exists():
        other = f", or give its checkpoint: {checkpoints[-1]}" if checkpoints else ""
        raise ValueError(
            f"backbone_from={str(folder)!r} is a run that is not finished: it has no {path.name} yet; "
            f"resume it by its own command{other}"
        )
    raise ValueError(f"backbone_from={str(folder)!r} is a folder without {path.name}; give {KINDS}")


def locate_weights(path: Path | str) -> Path:
    """The file of weights that a path means: itself, or that of a run folder. Raises ValueError without one."""
    path = Path(path).expanduser()
    if path.is_dir():
        return _file_of_run(path)
    if not path.is_file():
        raise ValueError(f"backbone_from={str(path)!r} does not exist; give {KINDS}")
    return path


def read_weights(path: Path | str) -> WeightsFile:
    """Read the tensors of a file, on the CPU, and what it says about them.

    State dicts are found wherever they lie in a checkpoint: at its top, under "state_dict", "model",
    "task" (our checkpoints), ... A single one keeps its own names. If there are several ("student" and
    "teacher", "model" and "model_ema"), the names begin with their places:
    "teacher.backbone.conv1.weight"; `load_backbone` says which is taken.

    Args:
        path: a run folder (its backbone.safetensors is read), a .safetensors file, or a file of
            torch.save with any name, or an index of Hugging Face's shards (model.safetensors.index.json).
            Nothing in a file is ever run.

    Raises:
        ValueError: the file does not exist, cannot be read, or holds no weights.
    """
    path = locate_weights(path)
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    _check_beginning(path)
    return _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
