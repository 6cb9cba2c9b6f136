"""Faults: what the soak needs to know of one, and the course of one that strikes a running process."""

from typing import ClassVar

from .broken_run import BrokenRun
from .processes import Child


class Fault:
    """One way to break a run. The first line of a class's docstring stands in the printed table."""

    name: ClassVar[str]
    setting: ClassVar[str] = "digits"
    at_rest: ClassVar[bool] = False
    """Injected between two launches. Without it the fault launches the run itself."""
    rare: ClassVar[bool] = False
    """Drawn in every second round only, because it is slow."""
    expected: ClassVar[str]
    """Text of the printed table: the outcome that is checked."""

    def applies(self, run: BrokenRun) -> bool:
        """Whether the outcome of this fault is defined in the run's present state."""
        return True

    def inject(self, run: BrokenRun) -> bool:
        """Break the run and check the outcome; False if the moment was missed."""
        raise NotImplementedError


class LiveFault(Fault):
    """A fault of a running process: launch, strike at a random moment, wait for the end, repair."""

    def inject(self, run: BrokenRun) -> bool:
        child = run.start(self.wrap(run.command()))
        hit = self.wait(run, child)
        if hit:
            self.strike(run, child)
        code = child.wait()
        self.repair(run)
        run.inspect_start(child)
        run.check(code is not None, f"{self.name}: the process hung")
        struck = hit and code != 0  # 0: training was over before the fault had an effect
        if struck:
            self.inspect(run, child, code or 0)
        return struck

    def wrap(self, command: list[str]) -> list[str]:
        """The command to launch."""
        return command

    def wait(self, run: BrokenRun, child: Child) -> bool:
        """Wait for the moment to strike; False if the run ended before it."""
        return run.wait_for_moment(child)

    def strike(self, run: BrokenRun, child: Child) -> None:
        """Break the running process."""
        raise NotImplementedError

    def repair(self, run: BrokenRun) -> None:
        """Undo the damage that the run itself cannot undo."""

    def inspect(self, run: BrokenRun, child: Child, code: int) -> None:
        """Check how the process ended."""


def check_one_error(run: BrokenRun, child: Child, code: int, fault: str, names: str = "") -> None:
    """Check for exit code 2, one error line that contains `names`, and no traceback."""
    run.check(code == 2, f"{fault}: exit code {code}, not 2: {child.stderr[-600:]}")
    run.check(len(child.errors) == 1, f"{fault}: {len(child.errors)} error lines, not 1")
    run.check("Traceback" not in child.stderr, f"{fault}: a traceback: {child.stderr[-600:]}")
    text = " ".join(child.errors)
    run.check(names in text, f"{fault}: the error does not name {names!r}: {text}")
