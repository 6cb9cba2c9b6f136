"""A data set as one .beton file."""

from collections.abc import Sequence

from sslortho.recipes.write_beton.options import WriteBetonOptions


def main(arguments: Sequence[str], program: str) -> int:
    """The command `write_beton`; the exit code."""
    from sslortho.recipes.command_line import parse_options, user_errors

    options = parse_options(WriteBetonOptions, arguments, program)
    with user_errors(options.debug, program):
        from sslortho.recipes.write_beton.run import run

        return run(options, program)
