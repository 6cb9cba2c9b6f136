"""A backbone for timm, torchvision, torch.hub, ONNX or Hugging Face's hub."""

from collections.abc import Sequence

from sslortho.recipes.export.options import ExportOptions


def main(arguments: Sequence[str], program: str) -> int:
    """The command `export`; the exit code."""
    from sslortho.recipes.command_line import name_first, parse_options, user_errors

    options = parse_options(ExportOptions, name_first(arguments, "backbone_from"), program)
    with user_errors(options.debug, program):
        from sslortho.recipes.export.run import run

        run(options)
    return 0
