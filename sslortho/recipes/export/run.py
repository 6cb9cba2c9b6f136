"""Write a backbone for other libraries, and say how to load it there."""

from pathlib import Path

from sslortho.models import RestoredBackbone, export_backbone, read_weights, restore_backbone
from sslortho.models.export import check_packages
from sslortho.models.network_facts import USUAL_SIZE
from sslortho.recipes.export.options import ExportOptions
from sslortho.runs.folder import RunFolder
from sslortho.runs.model_card import write_card

CHECKOUT = Path(__file__).resolve().parents[3]
"""Folder of hubconf.py, which `torch.hub.load` needs; a checkout has it."""


def run(options: ExportOptions) -> tuple[str, str]:
    """Write the file and print how to load it; the lines that do.

    Raises ValueError for a file that exists, weights that do not fit, a missing package.
    """
    out = Path(options.out)
    if out.exists() and not options.overwrite:
        raise ValueError(f"out={options.out!r} exists already; give another one, or --overwrite")
    check_packages(options.format)
    restored = restore_backbone(
        read_weights(options.backbone_from),
        options.backbone,
        None if options.stem == "auto" else options.stem,
        options.weights_prefix,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    hub = options.format == "huggingface"
    card = _describe(restored, Path(options.backbone_from)) if hub else ""
    lines = export_backbone(restored, options.format, out, options.crop_size, str(CHECKOUT), card)
    if options.format == "hub" and not (CHECKOUT / "hubconf.py").exists():  # an installed package
        lines = ("import sslortho", f"model = sslortho.load_backbone({str(out)!r})")
    _tell(restored, lines)
    return lines


def _describe(restored: RestoredBackbone, source: Path) -> str:
    """Text of the model card; source: run folder, or file with the weights.

    A run's summary speaks of what the run itself has written, and of no other file that lies there.
    """
    info = restored.info
    run = RunFolder(source if source.is_dir() else source.parent)
    if source.parent == RunFolder(source.parent.parent).checkpoints:
        run = RunFolder(source.parent.parent)
    elif source not in (run.path, run.backbone):
        run = None
    summary = run.read_summary() if run else None
    size = info.crop_size if info else USUAL_SIZE
    return write_card(restored.name.removeprefix("timm:"), size, _normalisation(restored), summary)


def _normalisation(restored: RestoredBackbone) -> str:
    info = restored.info
    if info is None:
        return "their normalisation is not recorded, ImageNet's is assumed"
    return f"values from 0 to 1, minus {info.mean}, over {info.std}"


def _tell(restored: RestoredBackbone, lines: tuple[str, str]) -> None:
    """Print what was matched, how to prepare images, and how to load the file."""
    print(restored.report)
    stem = f", stem {restored.stem}" if restored.stem != "stock" else ""
    print(f"backbone {restored.name}{stem}; to load it:")
    if info := restored.info:
        print(f"# {info.crop_size} pixels; values from 0 to 1, minus {info.mean}, over {info.std}")
    print("\n".join(lines))
