"""The soak: deals faults to runs, breaks the runs side by side, compares them with unbroken ones."""

import random
import shutil
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .broken_run import BrokenRun
from .faults import Fault
from .processes import Interrupted, Nursery
from .results import Tally
from .settings import SETTINGS, References
from .signal_faults import Kill

MOST_FAULTS = 5
"""Most faults of one run, not counting a first kill for damage to have checkpoints."""

SHOWN = 5
"""Differences of a run that are printed; chaos.json has all of them."""


class Deck:
    """All kinds of faults in random order, dealt to runs; shuffled again when none is left."""

    def __init__(self, kinds: list[type[Fault]], seed: int) -> None:
        self.kinds = kinds
        self.random = random.Random(f"deck {seed}")
        self.rounds = 0
        self.cards: list[type[Fault]] = []

    def _fill(self) -> None:
        fresh = [kind for kind in self.kinds if not kind.rare or self.rounds % 2 == 0]
        self.random.shuffle(fresh)
        self.cards += fresh or self.kinds
        self.rounds += 1

    def deal(self) -> list[type[Fault]]:
        """Faults for one run: the next kind, and the following kinds of the same setting."""
        if not self.cards:
            self._fill()
        hand = [self.cards.pop(0)]
        for kind in list(self.cards):
            if len(hand) < MOST_FAULTS and kind.setting == hand[0].setting:
                self.cards.remove(kind)
                hand.append(kind)
        # a fault at rest damages checkpoints, so a launch must come before it
        hand.sort(key=lambda kind: kind.at_rest)
        if hand[0].at_rest:
            hand.insert(0, Kill)
        live = [kind for kind in hand if not kind.at_rest]
        rest = [kind for kind in hand if kind.at_rest]
        for kind in rest:  # anywhere but before the first
            live.insert(self.random.randint(1, len(live)), kind)
        return live


class Soak:
    """Breaks runs side by side until the time is up.

    Args:
        folder: holds all runs; a run that ends well is removed.
        kinds: kinds of faults.
        seconds: no run is begun after this time.
        jobs: runs side by side.
        seed: determines the order of the faults and their moments.
    """

    def __init__(
        self, folder: Path, kinds: list[type[Fault]], seconds: float, jobs: int, seed: int
    ) -> None:
        self.folder = folder
        self.started = time.monotonic()
        self.deadline = self.started + seconds
        self.jobs = jobs
        self.seed = seed
        self.nursery = Nursery()
        self.references = References(folder / "unbroken", self.nursery)
        self.deck = Deck(kinds, seed)
        self.tally = Tally()
        self.begun = 0
        self._lock = threading.Lock()

    def run(self) -> Tally:
        """Break runs until the time is up; returns once all runs are finished."""
        pool = ThreadPoolExecutor(self.jobs)
        try:
            workers = [pool.submit(self._work) for _ in range(self.jobs)]
            for worker in workers:
                worker.result()
        finally:
            self.nursery.close()
            pool.shutdown()
        return self.tally

    def _time_left(self, setting: str, launches: float) -> bool:
        """Whether this many launches of a setting end in time, judged by its unbroken run."""
        needed = launches * self.references.seconds.get(setting, 12.0)
        return time.monotonic() + needed < self.deadline

    def _work(self) -> None:
        while True:
            with self._lock:
                hand = self.deck.deal()
                setting = hand[0].setting
                new = setting not in self.references.seconds
                if self.begun and not self._time_left(setting, 3 if new else 2):
                    return
                self.begun += 1
                number = self.begun
            try:
                self._break_one(number, hand)
            except Interrupted:
                return
            except Exception:
                if self.nursery.closed:
                    return
                # a fault of the soak itself, or an unbroken run failed: continuing is useless
                self._record(number, setting, [], [traceback.format_exc()], [])
                self.deadline = 0.0

    def _break_one(self, number: int, hand: list[type[Fault]]) -> None:
        setting = SETTINGS[hand[0].setting]
        home = self.folder / f"run-{number:04d}"
        draw = random.Random(f"run {self.seed} {number}")
        run = BrokenRun(setting, home, self.references, self.nursery, draw)
        injected: list[str] = []
        live = max(1, sum(not kind.at_rest for kind in hand))
        for kind in hand:
            if run.finished or (injected and not self._time_left(setting.name, 1)):
                break
            if setting.name != "beton":
                share = run.total_steps / (live + 1)
                run.target = int(share * (len(injected) + draw.random() * 0.8)) + 2
                run.target = min(run.target, run.total_steps - 10)
            if self._inject(kind(), run):
                injected.append(kind.name)
        differences = run.finish()
        if self.nursery.closed:
            raise Interrupted
        self._record(number, setting.name, injected, differences, run.problems)
        if not differences and not run.problems:
            shutil.rmtree(home)

    def _inject(self, fault: Fault, run: BrokenRun) -> bool:
        if not fault.applies(run):
            with self._lock:
                self.tally.missed[fault.name] += 1
            return False
        run.history.append(fault.name)
        hit = fault.inject(run)
        if self.nursery.closed:
            raise Interrupted
        with self._lock:
            (self.tally.faults if hit else self.tally.missed)[fault.name] += 1
        return hit

    def _record(
        self, number: int, setting: str, injected: list[str], differences: list[str],
        problems: list[str],
    ) -> None:  # fmt: skip
        entry = {
            "run": number, "setting": setting, "faults": injected, "differences": differences,
            "problems": problems,
        }  # fmt: skip
        with self._lock:
            self.tally.runs.append(entry)
            minutes = (time.monotonic() - self.started) / 60
            verdict = "DIFFERS" if differences else "equal"
            total = sum(self.tally.faults.values())
            told = ", ".join(injected) or "none"
            print(f"{minutes:5.1f} min, {total:4d} faults: run {number} ({setting}: {told}) {verdict}",
                  flush=True)  # fmt: skip
            for line in [*differences[:SHOWN], *problems]:
                print(f"    {line}", flush=True)
            if len(differences) > SHOWN:
                print(f"    and {len(differences) - SHOWN} more differences", flush=True)
