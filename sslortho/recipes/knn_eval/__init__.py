"""Nearest neighbours on the features of a frozen backbone: options and a run in a run folder."""

from collections.abc import Sequence

from sslortho.recipes.knn_eval.options import KnnEvalOptions


def main(arguments: Sequence[str], program: str) -> int:
    """The command `knn_eval`; the exit code."""
    from sslortho.recipes.command import call_run
    from sslortho.recipes.command_line import name_first, parse_options

    options = parse_options(KnnEvalOptions, name_first(arguments, "backbone_from"), program)
    from sslortho.recipes.knn_eval.run import run  # torch and all: not for --help

    return call_run(run, options, program)
