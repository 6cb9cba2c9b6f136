"""Experiments of the paper by name: `sslortho reproduce table3 --data_dir D`.

Writes out/runs/NAME, out/logs/NAME.log, and out/report.md: our figures beside the paper's. The same
command continues where it was stopped.
"""

from collections.abc import Sequence

from sslortho.paper.reproduce.options import ReproduceOptions


def describe_usage(program: str) -> str:
    """Text of `--help` without an experiment: the usage, and the experiments."""
    from sslortho.paper.experiments import list_experiments

    usage = f"usage: {program} EXPERIMENT [options]; EXPERIMENT --help has the options"
    return "\n".join((usage, "", *list_experiments()))


def main(arguments: Sequence[str], program: str) -> int:
    """The command `reproduce`; the exit code."""
    from sslortho.paper.experiments import choose_experiment
    from sslortho.recipes.command_line import asks_for_debug, parse_options, user_errors

    name, *given = arguments or ["--help"]
    if name in ("--help", "-h"):
        print(describe_usage(program))
        return 0 if arguments else 2
    with user_errors(asks_for_debug(given), program):
        if name.startswith("-"):
            raise ValueError(f"the name of an experiment comes first, before {name}")
        path = choose_experiment(name)
        shown = f"{program} {name}" if {"--help", "-h"} & set(given) else program
        options = parse_options(ReproduceOptions, given, shown)
        from sslortho.paper.reproduce.run import run

        return run(options, path, program)
