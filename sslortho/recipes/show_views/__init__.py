"""A picture of the views that pretraining sees."""

from collections.abc import Sequence

from sslortho.recipes.show_views.options import ShowViewsOptions


def main(arguments: Sequence[str], program: str) -> int:
    """The command `show_views`; the exit code."""
    from sslortho.recipes.command_line import parse_options, user_errors

    options = parse_options(ShowViewsOptions, arguments, program)
    with user_errors(options.debug, program):
        from sslortho.recipes.show_views.run import run

        print(run(options))
    return 0
