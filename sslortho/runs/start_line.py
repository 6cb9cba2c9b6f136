"""Lines that say what will be trained, before the first step, and how long it will take."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from tqdm.auto import tqdm


@dataclass(frozen=True)
class Plan:
    """A training in words."""

    rows: Mapping[str, str]
    """Name of a row, such as "images", to its text."""
    notes: tuple[str, ...] = ()
    """Remarks about settings that are probably not meant."""

    def lines(self) -> list[str]:
        """The rows with their texts aligned, then the notes."""
        width = max(map(len, self.rows), default=0)
        return [
            *(f"{name:{width}}  {text}" for name, text in self.rows.items() if text),
            *(f"note: {note}" for note in self.notes),
        ]


def say(line: str) -> None:
    """Print a line on stderr, above a progress bar if there is one."""
    tqdm.write(line, file=sys.stderr)


def describe_seconds(seconds: float) -> str:
    """A duration in words with its two largest units: "3 h 20 min", "2 min 5 s", "40 s"."""
    whole = max(1, round(seconds))
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    first = next(i for i, (_, size) in enumerate(units) if whole >= size)
    words = []
    for name, size in units[first : first + 2]:
        count, whole = divmod(whole, size)
        if count:
            words.append(f"{count} {name}")
    return " ".join(words)


def describe_pace(seconds_a_step: float, steps: int) -> str:
    """The line about the time that the remaining steps will take."""
    return (
        f"{seconds_a_step:.2g} s a step: about {describe_seconds(seconds_a_step * steps)} for the "
        f"{steps:,} {'step that is' if steps == 1 else 'steps that are'} left, evaluations not counted"
    )
