"""Supervised classification from scratch: options and a run in a run folder."""

from collections.abc import Sequence

from sslortho.recipes.supervised.options import SupervisedOptions


def main(arguments: Sequence[str], program: str) -> int:
    """The command `supervised`; the exit code."""
    from sslortho.recipes.command import call_run
    from sslortho.recipes.command_line import name_first, parse_options

    options = parse_options(SupervisedOptions, name_first(arguments, "data"), program)
    from sslortho.recipes.supervised.run import run  # torch and all: not for --help

    return call_run(run, options, program)
