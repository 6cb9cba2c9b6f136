"""The units in order of worth. Imports nothing heavy."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from math import inf
from typing import Any

from sslortho.options import nearest

from .context import Context


@dataclass(frozen=True)
class Unit:
    """A measurement that is made as a whole, or a training that can be gone on with.

    seconds: that it takes on an H200, estimated and never measured; it begins if they are left. limit:
    seconds after which it is ended as failed. resumes: whether it goes on where it was stopped; such a
    unit has no limit, since it may take all the time of a command and saves at its end.
    """

    name: str
    function: str
    """Module of this package and its function, called with the context and `arguments`."""
    seconds: float
    limit: float
    arguments: tuple[Any, ...] = ()
    resumes: bool = False

    @property
    def stage(self) -> str:
        """Units of one stage share a process."""
        return self.name.split(".")[0]

    def load(self) -> Callable[[Context], dict[str, Any]]:
        """The function that gives its figures."""
        module, _, name = self.function.partition(":")
        return partial(
            _call, getattr(import_module(f"proof_stages.{module}"), name), self.arguments
        )


def _call(function: Callable[..., dict[str, Any]], arguments: tuple[Any, ...], context: Context):
    return function(context, *arguments)


UNITS = (
    Unit("machine", "machine:describe", 5, 60),
    Unit("tests.gpu", "suites:run_gpu_tests", 120, 420),
    Unit("optim.resnet18-real", "orthonormalise:measure", 40, 240, ("resnet18", "real")),
    Unit("optim.resnet50-real", "orthonormalise:measure", 60, 300, ("resnet50", "real")),
    Unit("step.resnet50", "step:measure", 45, 240, ("resnet50", 224)),
    Unit("step.resnet18", "step:measure", 25, 180, ("resnet18", 32)),
    Unit("views.224", "views:measure", 60, 240, ("barlow_twins", 224)),
    Unit("views.32", "views:measure", 30, 180, ("barlow_twins_small", 32)),
    Unit("rates.resnet18-lars", "rates:measure", 30, 180, ("resnet18", 32, "lars")),
    Unit("rates.resnet18-orth_lars", "rates:measure", 30, 180, ("resnet18", 32, "orth_lars")),
    Unit("rates.resnet50-orth_lars", "rates:measure", 60, 240, ("resnet50", 224, "orth_lars")),
    Unit("pretrain", "trainings:pretrain", 60, inf, resumes=True),
    Unit("table3", "trainings:train_table3", 60, inf, resumes=True),
    Unit("optim.resnet18-spectrum", "orthonormalise:measure", 40, 240, ("resnet18", "spectrum")),
    Unit("optim.resnet50-spectrum", "orthonormalise:measure", 60, 300, ("resnet50", "spectrum")),
    Unit("rates.resnet50-lars", "rates:measure", 60, 240, ("resnet50", 224, "lars")),
    Unit("bits.usual", "bits:compare", 40, 240, (False,)),  # first: the other one's settings stay
    Unit("bits.deterministic", "bits:compare", 40, 240, (True,)),
    Unit("tests.suite", "suites:run_suite", 240, 540),
)


def find_unit(name: str) -> Unit:
    """The unit of a name."""
    return next(unit for unit in UNITS if unit.name == name)


def choose_units(only: str | None) -> list[Unit]:
    """Units with these comma-separated names or beginnings of names; all for None.

    Raises ValueError for one that begins no name.
    """
    if only is None:
        return list(UNITS)
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    names = [unit.name for unit in UNITS]
    for name in wanted:
        if not any(known.startswith(name) for known in names):
            raise ValueError(
                f"only: {name!r} begins no unit{nearest(name, names)}; they are {', '.join(names)}"
            )
    return [unit for unit in UNITS if unit.name.startswith(tuple(wanted))]
