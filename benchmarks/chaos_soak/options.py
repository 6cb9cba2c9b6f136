"""Options of chaos.py."""

from dataclasses import dataclass

from sslortho.options import Options, option


@dataclass(frozen=True, kw_only=True)
class ChaosOptions(Options):
    """Break trainings and resume them until the time is up; each must end as an unbroken one does."""

    minutes: float = option(30)
    """Length of the soak. Runs under way are finished, which may take some more seconds."""
    seed: int = option(0)
    """Seed of the order of the faults and of their moments."""
    jobs: int | None = option(None, group="hardware")
    """Runs side by side. Default: one a core."""
    faults: str | None = option(None)
    """Comma-separated kinds of faults, such as kill,disk_full. Default: all."""
    out: str | None = option(None, group="output", path=True)
    """Empty folder for chaos.json and for runs that did not end well. Default: a temporary one,
    removed if all is well."""
    debug: bool = option(False, group="output", rare=True)
    """Show the traceback of a user's error."""

    def __post_init__(self) -> None:
        self._check("minutes", 0 < self.minutes < float("inf"), "above 0, and finite")
        self._check_least(1, "jobs")
        self._check(
            "faults",
            self.faults is None or bool(self.fault_names),
            "kinds of faults with commas between",
        )
        super().__post_init__()

    @property
    def fault_names(self) -> tuple[str, ...] | None:
        """`faults` as names; None for all."""
        if self.faults is None:
            return None
        return tuple(name.strip() for name in self.faults.split(",") if name.strip())
