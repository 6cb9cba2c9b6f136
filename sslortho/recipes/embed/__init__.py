"""Features of images by a frozen backbone, in a file: options, and a run that can be killed."""

from collections.abc import Sequence

from sslortho.recipes.embed.options import EmbedOptions


def main(arguments: Sequence[str], program: str) -> int:
    """The command `embed`; the exit code."""
    from sslortho.recipes.command_line import name_first, parse_options, user_errors

    shown = f"{program} RUN" if {"--help", "-h"} & set(arguments) else program
    options = parse_options(EmbedOptions, name_first(arguments, "backbone_from"), shown)
    with user_errors(options.debug, program):
        if options.out is None:
            raise ValueError("out must be given, such as --out features.npz")
        from sslortho.recipes.embed.run import run  # torch and all: not for --help

        run(options)
    return 0
