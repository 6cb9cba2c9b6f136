"""Model card of a backbone: README.md of a folder for the hub."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from sslortho.runs.markdown import code_lines, escape, table_lines

FIGURES = {
    "top1": "accuracy of the classifier it was trained with, test images (%)",
    "val_top1": "the same, held-out training images (%)",
    "knn_top1": "kNN accuracy, test images (%)",
    "linear_top1": "linear probe, test images (%)",
    "val_knn_top1": "kNN accuracy, held-out training images (%)",
    "rankme": "RankMe, effective dimensions of the features",
    "neighbour_agreement": "images whose nearest second view is their own (%)",
    "pair_ranking": "own view nearer than another's (%)",
    "loss": "training loss at the end",
    "val_loss": "loss of held-out images",
}
"""Figures of summary.json that a card shows, in this order, and their meaning."""

OPTIONS = (
    "method",
    "weights",
    "backbone_from",
    "optim",
    "lr",
    "lr_backbone",
    "batch_size",
    "epochs",
    "crop_size",
    "mixed_precision",
    "seed",
)
"""Options that a card shows."""


def write_card(
    name: str, crop_size: int, normalisation: str, summary: Mapping[str, Any] | None
) -> str:
    """Text of a model card, with the header that the hub reads.

    Args:
        name: of the backbone.
        crop_size: side of the views in pixels.
        normalisation: of the images, in words.
        summary: content of summary.json of the training; None if there is none.
    """
    method = _part(summary or {}, "config").get("method", "")
    title = f"{name}, pretrained by {method}" if method else name
    learned = ["self-supervised-learning"] if method else []
    tags = ["image-feature-extraction", *learned, "sslortho"]
    head = ["---", "library_name: timm", "tags:", *(f"- {tag}" for tag in tags), "---"]
    lines = [*head, "", f"# {escape(title, begins_line=True)}", ""]
    lines += [
        "A network from images to features, without a classifier.",
        "",
        *code_lines(
            "import timm\n\n"
            'model = timm.create_model("hf-hub:OWNER/NAME", pretrained=True)   # or "local-dir:FOLDER"',
            "python",
        ),
        "",
        f"Images have {crop_size} x {crop_size} pixels; {normalisation}. "
        "`timm.data.resolve_model_data_config(model)` knows it.",
        "",
    ]
    if summary is None:
        return "\n".join(
            [*lines, "How it was trained is not recorded in the file it was made from.", ""]
        )
    return "\n".join([*lines, *_figures(summary), *_training(summary)])


def _part(summary: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A mapping in the summary; empty if there is none."""
    found = summary.get(name)
    return found if isinstance(found, Mapping) else {}


def _figures(summary: Mapping[str, Any]) -> list[str]:
    rows = [("figure", "value", "untrained network")]
    for name, meaning in FIGURES.items():
        if isinstance(summary.get(name), float | int):
            before = summary.get(f"untrained_{name}")
            shown = f"{before:.4g}" if isinstance(before, float | int) else ""
            rows.append((meaning, f"{summary[name]:.4g}", shown))
    verdict = _part(summary, "verdict").get("name")
    if len(rows) == 1:
        return []
    lines = [
        "## How good it is",
        "",
        *table_lines(list(zip(*rows, strict=True)), (False, True, True)),
        "",
    ]
    return [*lines, f"Verdict of the run: {verdict}.", ""] if verdict else lines


def _training(summary: Mapping[str, Any]) -> list[str]:
    config = _part(summary, "config")
    plan = _part(summary, "plan")
    chosen = {name: config[name] for name in OPTIONS if config.get(name) is not None}
    if "backbone_from" in chosen:  # a run and its file, not where they lie
        chosen["backbone_from"] = "/".join(PurePath(str(chosen["backbone_from"])).parts[-2:])
    if "method" in config or "protocol" in config:  # absolute in supervised training
        per_256 = {name: f"{name}, per 256 images" for name in ("lr", "lr_backbone")}
        chosen = {per_256.get(name, name): value for name, value in chosen.items()}
    facts = {
        **chosen,
        "data": PurePath(config.get("data_dir") or "").name or config.get("data", ""),
        "images": plan.get("images", ""),
        "steps": summary.get("steps", ""),
        "hardware": summary.get("hardware", ""),
        "finished": summary.get("finished", ""),
        "commit of sslortho": summary.get("git_commit") or "",
        "versions": ", ".join(f"{n} {v}" for n, v in _part(summary, "versions").items()),
    }
    rows = [("", "")] + [(name, escape(str(value))) for name, value in facts.items() if value != ""]
    lines = [
        "## How it was trained",
        "",
        *table_lines(list(zip(*rows, strict=True)), (False, False), 60),
        "",
    ]
    command = summary.get("command")
    return [*lines, *code_lines(command, "bash"), ""] if command else lines
