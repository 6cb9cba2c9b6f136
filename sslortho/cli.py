"""The command `sslortho`: `sslortho pretrain --optim orth_lars`, and its siblings."""

import importlib
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from sslortho.options import nearest
from sslortho.version import __version__

COMMANDS = {
    "pretrain": ("sslortho.recipes.pretrain", "self-supervised pretraining"),
    "linear_eval": (
        "sslortho.recipes.linear_eval",
        "linear evaluation or fine-tuning of a backbone",
    ),
    "knn_eval": ("sslortho.recipes.knn_eval", "nearest neighbours on frozen features"),
    "embed": ("sslortho.recipes.embed", "features of images in a file, with names and labels"),
    "neighbours": ("sslortho.recipes.neighbours", "images nearest to an image, by their features"),
    "duplicates": ("sslortho.recipes.duplicates", "duplicates and near-duplicates among images"),
    "feature_map": ("sslortho.recipes.feature_map", "map of features in the plane"),
    "feature_strip": ("sslortho.recipes.feature_strip", "maps of features while they form"),
    "supervised": ("sslortho.recipes.supervised", "classification from scratch"),
    "show_views": ("sslortho.recipes.show_views", "picture of the views that pretraining sees"),
    "export": (
        "sslortho.recipes.export",
        "backbone for timm, torchvision, torch.hub, ONNX or the hub",
    ),
    "write_beton": ("sslortho.recipes.write_beton", "data set as one .beton file"),
    "compare": ("sslortho.recipes.compare", "table of runs, mean and error over seeds"),
    "plot_runs": ("sslortho.recipes.plot_runs", "curves of several runs in one picture"),
    "tune": ("sslortho.recipes.tune", "search for rate, momentum and weight decay"),
    "reproduce": ("sslortho.paper.reproduce", "tables and figures of the paper"),
    "reproduce_run": ("sslortho.recipes.reproduce_run", "a finished run once more, compared"),
}
"""Name of a command to its module, which has a `main`, and what it does."""


def describe_commands() -> str:
    """Text of `sslortho --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        (
            "usage: sslortho COMMAND [options]",
            "",
            "Self-supervised learning around orthonormalised gradients.",
            "",
            *lines,
            "",
            "sslortho COMMAND --help shows a command's options. On several GPUs:",
            "  accelerate launch -m sslortho pretrain ...",
            "  torchrun --nproc_per_node 8 -m sslortho pretrain ...",
        )
    )


def run_command(name: str, arguments: Sequence[str], program: str) -> None:
    """Run a command and end the process, unless its exit code is 0.

    Args:
        name: one of COMMANDS.
        arguments: behind the name.
        program: as it was called, for messages.
    """
    warnings.formatwarning = format_warning
    main = importlib.import_module(COMMANDS[name][0]).main
    if code := main(list(arguments), program):
        sys.exit(code)


_format_plainly = warnings.formatwarning


def format_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Text of a warning: the sentence alone if it is ours and for the user, else as Python has it."""
    ours = Path(filename).is_relative_to(Path(__file__).parent)
    if ours and category is UserWarning:
        return f"warning: {message}\n"
    return _format_plainly(message, category, filename, lineno, line)


def run_script(name: str) -> None:
    """Run a command as `scripts/NAME.py` does."""
    run_command(name, sys.argv[1:], Path(sys.argv[0]).name)


def main() -> None:
    """Entry point of `sslortho` and of `python -m sslortho`."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        print(describe_commands())
        sys.exit(0 if sys.argv[1:] else 2)
    if name == "--version":
        print(f"sslortho {__version__}")
        return
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(
            f"sslortho: error: {name!r} is not a command{nearest(name, COMMANDS)}; they are {known}",
            file=sys.stderr,
        )
        sys.exit(2)
    run_command(name, arguments, f"sslortho {name}")
