"""A backbone as a folder in Hugging Face's layout, which timm loads."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from sslortho.models.network_facts import USUAL_SIZE, feature_dim
from sslortho.models.weights import RestoredBackbone, write_backbone

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
"""Files of the folder, by the names that timm and the hub look for."""

SMALL = 96
"""Largest side of views, in pixels, whose images count as small. kNN and probe take small images whole, and cut
224 of 256 pixels out of others; they look at the images, sides of up to 96. A file of weights does not say how
large its images were, so views that were cut smaller out of photographs are taken for small images."""

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet, where the weights do not say theirs; those of augment.views, which
stands beside this layer."""


def check_stem(restored: RestoredBackbone) -> None:
    """Raise ValueError for first layers that timm cannot build from a configuration."""
    if restored.stem != "stock":
        raise ValueError(
            f"format='huggingface': timm builds no {restored.name} with the stem {restored.stem!r} from a "
            "file; format='timm' prints the lines that change its model first, and networks that are "
            "pretrained with --stem stock need none"
        )


def check_folder(out: Path) -> None:
    """Raise ValueError if `out` is something else than a folder that was written here before."""
    if not (out.exists() or out.is_symlink()):
        return
    names = {path.name for path in out.iterdir()} if out.is_dir() else {out.name}
    if not names <= {CONFIG, WEIGHTS, CARD}:
        other = sorted(names - {CONFIG, WEIGHTS, CARD})[0]
        raise ValueError(
            f"out={str(out)!r} holds {other!r}, which is not of format='huggingface', and is not replaced; "
            "give another folder"
        )


def create_config(restored: RestoredBackbone) -> dict[str, Any]:
    """Content of config.json as timm's `save_for_hf` has it, without a classifier."""
    info = restored.info
    size = info.crop_size if info else USUAL_SIZE
    mean, std = (info.mean, info.std) if info else IMAGENET
    return {
        "architecture": restored.name.removeprefix("timm:"),
        "num_classes": 0,
        "num_features": feature_dim(restored.network, size),
        **({"model_args": {"dynamic_img_size": True}} if restored.any_size else {}),
        "pretrained_cfg": {
            "tag": "sslortho",
            "custom_load": False,
            "input_size": [3, size, size],
            "fixed_input_size": restored.image_size is not None,
            "interpolation": "bicubic",
            "crop_pct": 1.0 if size <= SMALL else 0.875,
            "mean": list(mean),
            "std": list(std),
            "num_classes": 0,
            "pool_size": None,
        },
    }


def export_huggingface(restored: RestoredBackbone, out: Path, card: str) -> tuple[str, str]:
    """Write config.json, model.safetensors and README.md; the folder is whole or not there.

    Args:
        restored: with the stem "stock".
        out: the folder; one that was written here before is replaced.
        card: text of README.md, the model card.

    Returns:
        Two lines of Python that load the folder.

    Raises ValueError as `check_stem` and `check_folder`.
    """
    check_stem(restored)
    check_folder(out)
    partial, before = (
        out.with_name(f".{out.name}.{os.getpid()}.{kind}") for kind in ("partial", "before")
    )
    try:
        partial.mkdir()
        write_backbone(restored.network, partial / WEIGHTS, restored.info)
        (partial / CONFIG).write_text(json.dumps(create_config(restored), indent=2) + "\n")
        (partial / CARD).write_text(card, encoding="utf-8")
        if out.exists():
            out.rename(before)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if not out.exists() and before.exists():
            before.rename(out)
        shutil.rmtree(before, ignore_errors=True)
    return "import timm", f"model = timm.create_model({f'local-dir:{out}'!r}, pretrained=True)"
