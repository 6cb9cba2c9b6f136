"""Self-supervised pretraining: options, resolved to a recipe, run in a run folder."""

from collections.abc import Sequence

from sslortho.recipes.pretrain.options import PretrainOptions


def main(arguments: Sequence[str], program: str) -> int:
    """The command `pretrain`; the exit code."""
    from sslortho.recipes.command import call_run
    from sslortho.recipes.command_line import name_first, parse_options

    options = parse_options(PretrainOptions, name_first(arguments, "data"), program)
    from sslortho.recipes.pretrain.run import run  # torch and all: not for --help

    return call_run(run, options, program)
