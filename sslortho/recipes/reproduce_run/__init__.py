"""A finished run once more, compared with the first: `sslortho reproduce_run runs/x`.

The same command with the same options, ranks and threads, in another folder; then weights, records and
figures, number by number. Exit code 0 if all are the same bits (or within --tolerance), 1 if not. The
same command resumes a rerun that was cut short.
"""

from collections.abc import Sequence
from pathlib import Path

from sslortho.recipes.reproduce_run.options import ReproduceRunOptions


def main(arguments: Sequence[str], program: str) -> int:
    """The command `reproduce_run`; the exit code."""
    from sslortho.recipes.command_line import asks_for_debug, parse_options, user_errors

    folder, *given = arguments or ["--help"]
    if folder in ("--help", "-h"):
        parse_options(ReproduceRunOptions, ["--help"], f"{program} RUN")
    with user_errors(asks_for_debug(given), program):
        if folder.startswith("-"):
            raise ValueError(f"the folder of a run comes first, before {folder}")
        shown = f"{program} RUN" if {"--help", "-h"} & set(given) else program
        options = parse_options(ReproduceRunOptions, given, shown)
        from sslortho.recipes.reproduce_run.run import reproduce

        return 0 if reproduce(Path(folder), options, program) else 1
