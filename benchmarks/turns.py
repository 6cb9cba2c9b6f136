"""Lines on the terminal that tell how far pipelines or methods are that take turns, round after round."""

import sys

from tqdm import tqdm

TOO_SLOW = 20
"""Times that one is slower than the fastest from which one round is enough."""

FAR_SLOWER = f": the fastest is more than {TOO_SLOW} times as fast"
"""Reason to end after one round."""


class Progress:
    """A bar, and a line for each as it is ready and as it is finished, on stderr.

    Args:
        number: of those that take turns.
        rounds: timed ones; one that is not timed comes before.
    """

    def __init__(self, number: int, rounds: int) -> None:
        self.number, self.rounds = number, rounds
        self.ready = self.finished = 0
        total = number * (rounds + 1)
        self.bar = tqdm(total=total, unit="run", leave=False, disable=None)

    def start(self, name: str) -> None:
        """Show whose turn it is."""
        self.bar.set_postfix_str(name)

    def tell_ready(self, name: str, seconds: float) -> None:
        """Tell that the round that is not timed is over for one."""
        self.ready += 1
        self.write(f"{name}: ready, {seconds:.1f} s ({self.ready} of {self.number})")

    def tell_finished(self, name: str, figure: str, count: int, why: str = "") -> None:
        """Tell one's figure over `count` rounds; `why` it ends early, if it does."""
        self.finished += 1
        rounds = "1 round" if count == 1 else f"{count} rounds"
        left = f"{self.finished} of {self.number} finished"
        self.write(f"{name}: {figure}, {rounds}{why} ({left})")

    def write(self, line: str) -> None:
        """Write a line above the bar."""
        tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()
