"""Bayesian search for hyperparameters of supervised training:
`sslortho tune --data cifar10 --data_dir D --backbone resnet20 --optim orth_sgd --epochs 20`.

Each trial is a run of `supervised` in its own folder. The same command continues the search, including
trials that were cut short.
"""

from collections.abc import Sequence

from sslortho.recipes.tune.options import TuneOptions


def main(arguments: Sequence[str], program: str) -> int:
    """The command `tune`; the exit code."""
    from sslortho.recipes.command_line import parse_options, user_errors

    options = parse_options(TuneOptions, arguments, program)
    with user_errors(options.debug, program):
        from sslortho.recipes.tune.run import run  # torch and all: not for --help

        return run(options, program)
