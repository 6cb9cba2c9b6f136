"""Backbone for timm, torchvision, torch.hub or ONNX: `python scripts/export.py --backbone_from runs/x
--format timm --out resnet50.safetensors`."""

from sslortho.cli import run_script


def main() -> None:
    run_script("export")


if __name__ == "__main__":
    main()
