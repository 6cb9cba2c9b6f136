"""What a fault is, and those that signals make."""

import signal
import time
from typing import ClassVar

from chaos_soak.broken_run import BrokenRun
from chaos_soak.processes import Child, without_privileges


class Fault:
    """One way to break a run. The first line of a class's docstring goes into the report."""

    name: ClassVar[str]
    setting: ClassVar[str] = "digits"
    at_rest: ClassVar[bool] = False
    """Injected between two launches; else it launches the run itself."""
    rare: ClassVar[bool] = False
    """Slow, so drawn in every second round only."""
    expected: ClassVar[str]
    """What is checked, for the report."""

    def applies(self, run: BrokenRun) -> bool:
        """Whether the run is in a state in which this fault has a defined end."""
        return True

    def inject(self, run: BrokenRun) -> bool:
        """Break the run, and check how it takes it; False if the moment was missed."""
        raise NotImplementedError


class LiveFault(Fault):
    """A fault of a run in training: launched, struck at a random moment, waited for, repaired."""

    def inject(self, run: BrokenRun) -> bool:
        child = run.start(self.wrap(run.command()))
        hit = self.wait(run, child)
        if hit:
            self.strike(run, child)
        code = child.wait()
        self.repair(run)
        run.inspect_start(child)
        run.check(code is not None, f"{self.name}: the process hung")
        struck = hit and code != 0  # else it was done before it noticed
        if struck:
            self.inspect(run, child, code or 0)
        return struck

    def wrap(self, command: list[str]) -> list[str]:
        """The command as it is to be launched."""
        return command

    def wait(self, run: BrokenRun, child: Child) -> bool:
        """Until the moment."""
        return run.wait_for_moment(child)

    def strike(self, run: BrokenRun, child: Child) -> None:
        """Break it."""
        raise NotImplementedError

    def repair(self, run: BrokenRun) -> None:
        """Undo what the run cannot."""

    def inspect(self, run: BrokenRun, child: Child, code: int) -> None:
        """Check how it ended."""


def check_one_error(run: BrokenRun, child: Child, code: int, fault: str, names: str = "") -> None:
    """Exit code 2, one line that contains `names`, no traceback."""
    run.check(code == 2, f"{fault}: exit code {code}, not 2: {child.stderr[-600:]}")
    run.check(len(child.errors) == 1, f"{fault}: {len(child.errors)} error lines, not 1")
    run.check("Traceback" not in child.stderr, f"{fault}: a traceback: {child.stderr[-600:]}")
    text = " ".join(child.errors)
    run.check(names in text, f"{fault}: the error does not name {names!r}: {text}")


class Kill(LiveFault):
    """SIGKILL at any moment, start-up included."""

    name = "kill"
    expected = "resumes at the newest checkpoint"

    def wait(self, run: BrokenRun, child: Child) -> bool:
        if run.random.random() < 0.75:
            return run.wait_for_moment(child)
        time.sleep(run.random.uniform(0, 5))
        run.remember_floor()
        return child.running

    def strike(self, run: BrokenRun, child: Child) -> None:
        child.send(signal.SIGKILL)


class KillInSave(LiveFault):
    """SIGKILL while a checkpoint is being written."""

    name = "kill_in_save"
    expected = "the half-written one is not taken, and removed at the next save"

    def wait(self, run: BrokenRun, child: Child) -> bool:
        if not run.wait_for_moment(child):
            return False
        folder = run.folder / "checkpoints"
        old = set(folder.glob(".step-*.partial"))  # of an earlier kill
        return child.wait_until(lambda: bool(set(folder.glob(".step-*.partial")) - old), 0.0001)

    def strike(self, run: BrokenRun, child: Child) -> None:
        child.send(signal.SIGKILL)
        child.wait()
        left = list((run.folder / "checkpoints").glob(".step-*.partial"))
        run.history.append(f"  {len(left)} half-written")


class Stop(LiveFault):
    """A signal that asks a run to stop."""

    number: ClassVar[signal.Signals]

    def strike(self, run: BrokenRun, child: Child) -> None:
        child.send(self.number)

    def inspect(self, run: BrokenRun, child: Child, code: int) -> None:
        if code == -self.number:  # training was over already, or not yet begun
            return
        run.check(
            code == 128 + self.number, f"{self.name}: exit code {code}: {child.stderr[-600:]}"
        )
        told = f"stopped by {self.number.name} at step {run.logged_step()}"
        run.check(told in child.stdout, f"{self.name}: did not say {told!r}")
        saved = [path.name for path in run.good_checkpoints()]
        mark = f"step-{run.logged_step():08d}"
        run.check(any(name.startswith(mark) for name in saved), f"{self.name}: {mark} not saved")
        run.remember_floor()


class Terminate(Stop):
    """SIGTERM, as schedulers send it."""

    name, number = "terminate", signal.SIGTERM
    expected = "exit code 143; the step that it says is saved"


class Requeue(Stop):
    """SIGUSR1, as Slurm sends it before the time is up."""

    name, number = "requeue", signal.SIGUSR1
    expected = f"exit code {128 + signal.SIGUSR1}; the step that it says is saved"


class Interrupt(Stop):
    """Ctrl-C."""

    name, number = "interrupt", signal.SIGINT
    expected = "exit code 130; the step that it says is saved"


class InterruptTwice(LiveFault):
    """Ctrl-C twice in quick succession."""

    name = "interrupt_twice"
    expected = "ends at once with 130; no checkpoint is lost"

    def strike(self, run: BrokenRun, child: Child) -> None:
        child.send(signal.SIGINT)
        time.sleep(run.random.uniform(0, 0.03))
        child.send(signal.SIGINT)
        run.check(child.wait(20) is not None, f"{self.name}: still running after 20 s")

    def inspect(self, run: BrokenRun, child: Child, code: int) -> None:
        # the second may come when Python is taking itself down
        run.check(code in (130, -signal.SIGINT), f"{self.name}: exit code {code}")
        run.check("Traceback" not in child.stderr or code == -signal.SIGINT,
                  f"{self.name}: a traceback: {child.stderr[-600:]}")  # fmt: skip


class ReadOnly(LiveFault):
    """The folder of checkpoints becomes read-only."""

    name = "read_only"
    expected = "exit code 2, one line that names the checkpoint; resumes once it can write"

    def wrap(self, command: list[str]) -> list[str]:
        return without_privileges(command)

    def wait(self, run: BrokenRun, child: Child) -> bool:
        folder = run.folder / "checkpoints"
        return run.wait_for_moment(child) and child.wait_until(folder.is_dir)

    def strike(self, run: BrokenRun, child: Child) -> None:
        (run.folder / "checkpoints").chmod(0o555)

    def repair(self, run: BrokenRun) -> None:
        if (run.folder / "checkpoints").is_dir():
            (run.folder / "checkpoints").chmod(0o755)

    def inspect(self, run: BrokenRun, child: Child, code: int) -> None:
        check_one_error(run, child, code, self.name, "checkpoint")


class Vanish(LiveFault):
    """The run folder is renamed away."""

    name = "vanish"
    expected = "exit code 2, one line; no half of a run is made in its place"

    def strike(self, run: BrokenRun, child: Child) -> None:
        run.folder.rename(self._away(run))

    def _away(self, run: BrokenRun):
        return run.folder.with_name("away")

    def repair(self, run: BrokenRun) -> None:
        if not self._away(run).exists():
            return
        if run.folder.exists():
            made = sorted(str(path.relative_to(run.folder)) for path in run.folder.rglob("*"))
            run.check(False, f"{self.name}: the folder was made again, with {made}")
            run.folder.rename(run.home / f"remade-{run.launches}")
        self._away(run).rename(run.folder)

    def inspect(self, run: BrokenRun, child: Child, code: int) -> None:
        check_one_error(run, child, code, self.name)
