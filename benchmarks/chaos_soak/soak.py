"""The soak: which faults strike which run, when, and how all ends."""

import random
import shutil
import threading
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos_soak.broken_run import BrokenRun
from chaos_soak.companions import FileDeleted, FileTruncated, NotFinite, RankDies, WriterDies
from chaos_soak.damage import Flip, Foreign, Truncate
from chaos_soak.faults import (
    Fault,
    Interrupt,
    InterruptTwice,
    Kill,
    KillInSave,
    ReadOnly,
    Requeue,
    Terminate,
    Vanish,
)
from chaos_soak.full_disk import DiskFull, FileLimit
from chaos_soak.processes import Interrupted, Nursery
from chaos_soak.settings import SETTINGS, References

FAULTS: dict[str, type[Fault]] = {
    kind.name: kind
    for kind in (
        Kill, KillInSave, Terminate, Requeue, Interrupt, InterruptTwice, FileLimit, DiskFull,
        ReadOnly, Vanish, Truncate, Flip, Foreign, RankDies, WriterDies, FileDeleted,
        FileTruncated, NotFinite,
    )
}  # fmt: skip

MOST_FAULTS = 5
"""Of one run."""

SHOWN = 5
"""Differences of a run that are printed; chaos.json has all."""


class Deck:
    """All kinds in random order, dealt to runs; shuffled anew when none is left."""

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
        """Faults for one run: the next one, and what follows of the same setting."""
        if not self.cards:
            self._fill()
        hand = [self.cards.pop(0)]
        for kind in list(self.cards):
            if len(hand) < MOST_FAULTS and kind.setting == hand[0].setting:
                self.cards.remove(kind)
                hand.append(kind)
        # what damages checkpoints needs some
        hand.sort(key=lambda kind: kind.at_rest)
        if hand[0].at_rest:
            hand.insert(0, Kill)
        live = [kind for kind in hand if not kind.at_rest]
        rest = [kind for kind in hand if kind.at_rest]
        for kind in rest:  # anywhere but before the first
            live.insert(self.random.randint(1, len(live)), kind)
        return live


@dataclass
class Tally:
    """What was done so far."""

    faults: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    runs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def equal(self) -> int:
        return sum(not run["differences"] for run in self.runs)

    @property
    def sound(self) -> bool:
        """Whether every run ended equal, and everything on the way was as it must be."""
        return all(not run["differences"] and not run["problems"] for run in self.runs)


class Soak:
    """Breaks runs side by side until the time is up.

    Args:
        folder: for all runs; those that end well are removed.
        kinds: of faults.
        seconds: after which no run is begun.
        jobs: runs side by side.
        seed: of the order of the faults, and of their moments.
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
        """Until the time is up and all runs are finished."""
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
        """Whether so many launches of a setting end in time, as far as its reference tells."""
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
                # the soak itself is at fault, or no unbroken run can be made: no use in going on
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
