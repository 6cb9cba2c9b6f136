"""Export of backbones to the formats of other libraries, each with two lines of Python that load it."""

import contextlib
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from sslortho.atomic import atomic_file
from sslortho.models.backbones import STEMMED
from sslortho.models.huggingface import export_huggingface
from sslortho.models.network_facts import USUAL_SIZE, feature_dim
from sslortho.models.torchvision_networks import torchvision_names
from sslortho.models.weights import RestoredBackbone, write_backbone
from sslortho.options import GIVEN

ExportFormat = Literal["timm", "torchvision", "hub", "onnx", "huggingface"]

DYNAMO_SINCE = (2, 9)
"""First version of torch whose ONNX exporter uses torch.export by default. Before it networks are
traced, since the newer exporter in torch 2.6 fails on batch norm with current versions of onnxscript."""


def check_packages(format: ExportFormat) -> None:
    """Raise ValueError if a package that the format needs is not installed."""
    missing = [
        name
        for name in ("onnx", "onnxscript")
        if format == "onnx" and importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ValueError(
            f"format='onnx' needs {' and '.join(missing)}: pip install 'sslortho[onnx]'"
        )


def check_format(format: ExportFormat, name: str) -> None:
    """Raise ValueError for an unknown format, or one whose library lacks the named backbone."""
    if format not in get_args(ExportFormat):
        raise ValueError(f"format={format!r} is not one of {', '.join(get_args(ExportFormat))}")
    if format in ("hub", "onnx"):
        return
    if not _has(format, name):
        raise ValueError(
            f"format={format!r} has no backbone={name!r}; format='hub' has all of ours, "
            f"format='onnx' needs no code of ours; for {format} pretrain one that it has, such as "
            "resnet18 or resnet50"
        )


def _has(format: ExportFormat, name: str) -> bool:
    """Whether timm or torchvision has the named backbone, with the same names of tensors."""
    timm = format in ("timm", "huggingface")
    if name.startswith("timm:"):
        return timm
    # timm has other names for the tensors of torchvision's other networks
    return name in (STEMMED if timm else torchvision_names())


def loads_elsewhere(name: str) -> bool:
    """Whether timm or torchvision can load the weights of a backbone.

    A module that was handed over counts: whoever has it loads them.
    """
    return name == GIVEN or _has("timm", name) or _has("torchvision", name)


def _write_state(restored: RestoredBackbone, out: Path) -> None:
    if out.suffix == ".safetensors":
        write_backbone(restored.network, out, restored.info)
        return
    with atomic_file(out) as file:
        torch.save(restored.network.state_dict(), file)


def _stem_statements(restored: RestoredBackbone) -> str:
    """Python statements that give a torchvision or timm `model` the first layers of the stem."""
    if restored.stem == "stock":
        return ""
    network: Any = restored.network
    dense = restored.name.startswith("densenet")
    conv, pool = ("features.conv0", "features.pool0") if dense else ("conv1", "maxpool")
    channels = (network.features.conv0 if dense else network.conv1).out_channels
    padding = 2 if restored.stem == "solo_learn" else 1
    return (
        f"model.{conv} = torch.nn.Conv2d(3, {channels}, 3, padding={padding}, bias=False); "
        f"model.{pool} = torch.nn.Identity(); "
    )


def _loading(restored: RestoredBackbone, out: Path, library: str, model: str) -> tuple[str, str]:
    """Two lines of Python that create a library's model with our stem and load our weights."""
    imports, state = "torch, ", f"torch.load({str(out)!r}, weights_only=True)"
    if out.suffix == ".safetensors":
        imports = "torch, safetensors.torch, "
        state = f"safetensors.torch.load_file({str(out)!r})"
    strict = ", strict=False" if library == "torchvision" else ""
    load = f"model.load_state_dict({state}{strict})"
    return f"import {imports}{library}", f"model = {model}; {_stem_statements(restored)}{load}"


def export_timm(restored: RestoredBackbone, out: Path) -> tuple[str, str]:
    """Write a state dict for timm, whose names of torchvision's networks are the same.

    `timm.create_model` loads it by itself. With another stem than "stock", which no timm model has,
    the two lines change the model first.
    """
    _write_state(restored, out)
    name = restored.name.removeprefix("timm:")
    if restored.stem != "stock":
        model = f"timm.create_model({name!r}, num_classes=0)"
        return _loading(restored, out, "timm", model)
    options = ", dynamic_img_size=True" if restored.any_size else ""
    model = f"timm.create_model({name!r}, num_classes=0, checkpoint_path={str(out)!r}{options})"
    return "import timm", f"model = {model}"


def export_torchvision(restored: RestoredBackbone, out: Path) -> tuple[str, str]:
    """Write a state dict of torchvision's model without its classifier."""
    _write_state(restored, out)
    size = f"image_size={restored.image_size}" if restored.image_size else ""
    return _loading(restored, out, "torchvision", f"torchvision.models.{restored.name}({size})")


def export_hub(restored: RestoredBackbone, out: Path, repository: str) -> tuple[str, str]:
    """Write a state dict that the entry point `backbone` of hubconf.py loads, for any network.

    Raises ValueError if only a .safetensors file can say for which size of images.
    """
    if restored.any_size and out.suffix != ".safetensors":
        raise ValueError(
            f"out={str(out)!r} must end in .safetensors, which says the size of the images that "
            f"{restored.name} was pretrained on"
        )
    _write_state(restored, out)
    options = f"source='local', weights={str(out)!r}"
    if out.suffix != ".safetensors" or restored.info is None:  # the file does not say which
        options += f", backbone={restored.name!r}, stem={restored.stem!r}"
    return "import torch", f"model = torch.hub.load({repository!r}, 'backbone', {options})"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Context without the exporter's warnings, progress and logging."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            Path(os.devnull).open("w") as nowhere,
            contextlib.redirect_stdout(nowhere),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _onnx_model(network: nn.Module, crop_size: int) -> Any:
    """ONNX ModelProto from "images" (batch, 3, crop_size, crop_size) to "features" (batch, dim)."""
    import onnx

    images = torch.zeros(2, 3, crop_size, crop_size)  # a batch of 1 would become a constant
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["features"]}
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) >= DYNAMO_SINCE:
        program = torch.onnx.export(
            network,
            (images,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
            **names,
        )
        assert program is not None
        return program.model_proto
    content = io.BytesIO()
    axes = {"images": {0: "batch"}, "features": {0: "batch"}}
    torch.onnx.export(network, (images,), content, dynamo=False, dynamic_axes=axes, **names)  # pyright: ignore[reportArgumentType]
    return onnx.load_model_from_string(content.getvalue())


def export_onnx(restored: RestoredBackbone, out: Path, crop_size: int) -> tuple[str, str]:
    """Write an ONNX graph in evaluation mode, checked, with `BackboneInfo` in its properties.

    Input "images": float32 (batch, 3, crop_size, crop_size), normalised as in pretraining. Output
    "features": float32 (batch, dim). The batch size is free.

    Raises:
        ValueError: the network does not take images of that size, or a package is not installed.
    """
    check_packages("onnx")
    import onnx

    dim = feature_dim(restored.network, crop_size)
    with _quiet():
        model = _onnx_model(restored.network, crop_size)
    # tracing does not state the second dimension
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = dim
    if restored.info:
        for key, value in restored.info.to_metadata().items():
            model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model, full_check=True)
    with atomic_file(out) as file:
        file.write(model.SerializeToString())
    images = f"numpy.zeros((1, 3, {crop_size}, {crop_size}), 'float32')"
    session = f"onnxruntime.InferenceSession({str(out)!r})"
    return "import numpy, onnxruntime", f"[features] = {session}.run(None, {{'images': {images}}})"


def export_backbone(
    restored: RestoredBackbone,
    format: ExportFormat,
    out: Path,
    crop_size: int | None = None,
    repository: str = ".",
    card: str = "",
) -> tuple[str, str]:
    """Write a backbone for another library; the file, or folder, is whole or not there.

    Args:
        restored: result of `restore_backbone`.
        format: timm, torchvision, hub (this project's hubconf.py), onnx, or huggingface.
        out: the file; for huggingface a folder. A state dict is written as safetensors if the name ends
            in .safetensors, else by torch.save.
        crop_size: side of ONNX's images in pixels. None: that of pretraining, or 224 if unknown.
        repository: folder or "owner/name" of this project, for hub.
        card: text of the model card, for huggingface.

    Returns:
        Two lines of Python that load the file.

    Raises:
        ValueError: the format is unknown, its library lacks the backbone, or a package is missing.
    """
    check_packages(format)
    check_format(format, restored.name)
    if format == "timm":
        return export_timm(restored, out)
    if format == "torchvision":
        return export_torchvision(restored, out)
    if format == "huggingface":
        return export_huggingface(restored, out, card)
    if format == "hub":
        return export_hub(restored, out, repository)
    return export_onnx(
        restored, out, crop_size or (restored.info.crop_size if restored.info else USUAL_SIZE)
    )
