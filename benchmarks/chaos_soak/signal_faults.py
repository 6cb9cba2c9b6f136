"""Faults that signals cause, in one process or in one of several ranks."""

import signal
import time
from typing import ClassVar

from .broken_run import BrokenRun
from .comparison import read_records
from .faults import LiveFault
from .processes import Child, require_psutil


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
    expected = "the half-written one is not used, and is removed at the next save"

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
    """A signal that asks a run to save and stop."""

    number: ClassVar[signal.Signals]

    def strike(self, run: BrokenRun, child: Child) -> None:
        child.send(self.number)

    def inspect(self, run: BrokenRun, child: Child, code: int) -> None:
        if code == -self.number:  # before training began or after it was over
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
    expected = "exit code 143; the step that it names is saved"


class Requeue(Stop):
    """SIGUSR1, as Slurm sends it before the time is up."""

    name, number = "requeue", signal.SIGUSR1
    expected = f"exit code {128 + signal.SIGUSR1}; the step that it names is saved"


class Interrupt(Stop):
    """Ctrl-C."""

    name, number = "interrupt", signal.SIGINT
    expected = "exit code 130; the step that it names is saved"


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
        # the second may come while the interpreter shuts down
        run.check(code in (130, -signal.SIGINT), f"{self.name}: exit code {code}")
        run.check("Traceback" not in child.stderr or code == -signal.SIGINT,
                  f"{self.name}: a traceback: {child.stderr[-600:]}")  # fmt: skip


class NotFinite(LiveFault):
    """Losses are NaN at some steps; SIGKILL between them."""

    name = "nan"
    setting = "poisoned"
    expected = "these steps are skipped, the same ones after a resume"

    def strike(self, run: BrokenRun, child: Child) -> None:
        child.send(signal.SIGKILL)

    def inspect(self, run: BrokenRun, child: Child, code: int) -> None:
        bad = [r["step"] for r in read_records(run.reference) if r.get("loss", 0) is None]
        run.check(bool(bad), f"{self.name}: no step of the unbroken run was bad")
        run.history.append(f"  {len(bad)} bad steps in the unbroken run")


class RankDies(LiveFault):
    """SIGKILL to one of two ranks under torchrun."""

    name = "rank_dies"
    setting = "two_ranks"
    rare = True
    expected = "the job ends within 60 s, not with 0, and names the rank"

    def strike(self, run: BrokenRun, child: Child) -> None:
        self.rank = run.random.randrange(2)
        for process in require_psutil().Process(child.process.pid).children():
            if process.environ().get("RANK") == str(self.rank):
                process.kill()
        run.check(child.wait(60) is not None, f"{self.name}: still running after 60 s")

    def inspect(self, run: BrokenRun, child: Child, code: int) -> None:
        named = f"rank      : {self.rank} " in child.stderr
        run.check(named, f"{self.name}: rank {self.rank} is not named: {child.stderr[-1500:]}")
