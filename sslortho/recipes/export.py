"""Write a backbone for timm, torchvision, torch.hub or ONNX.

`python scripts/export.py --backbone_from runs/x --format timm --out resnet50.safetensors`
"""

from pathlib import Path

from sslortho.recipes.export_options import ExportOptions
from sslortho.recipes.command_line import parse_config, user_errors
from sslortho.models import RestoredBackbone, export_backbone, read_weights, restore_backbone
from sslortho.models.export import check_packages

ROOT = Path(__file__).resolve().parent.parent
"""Where hubconf.py lies."""


def export(config: ExportOptions) -> tuple[RestoredBackbone, tuple[str, str]]:
    """The backbone, and the lines that load what was written of it."""
    out = Path(config.out).expanduser()
    if out.exists() and not config.overwrite:
        raise ValueError(f"out={config.out!r} exists already; give another one, or --overwrite")
    check_packages(config.format)
    restored = restore_backbone(
        read_weights(config.backbone_from),
        config.backbone,
        None if config.stem == "auto" else config.stem,
        config.weights_prefix,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    return restored, export_backbone(restored, config.format, out, config.crop_size, str(ROOT))


def tell(restored: RestoredBackbone, lines: tuple[str, str]) -> None:
    """What was matched, how to prepare images, and how to load the file, on the terminal."""
    print(restored.report)
    stem = f", stem {restored.stem}" if restored.stem != "stock" else ""
    print(f"backbone {restored.name}{stem}; to load it:")
    if info := restored.info:
        print(f"# {info.crop_size} pixels; values from 0 to 1, minus {info.mean}, over {info.std}")
    print("\n".join(lines))


def main() -> None:
    config = parse_config(ExportOptions)
    with user_errors(config.debug):
        done = export(config)
    tell(*done)


if __name__ == "__main__":
    main()
