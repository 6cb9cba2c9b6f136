"""Break trainings and resume them, for as long as asked: `python scripts/chaos.py --minutes 30`.

Every run that was broken must end, to the last bit, as one that was not. Exit code 1 if one does not.
"""

import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from chaos_soak.processes import restore_signals
from chaos_soak.report import describe, print_table, write_report
from chaos_soak.soak import FAULTS, Fault, Soak

from chaos_soak.options import ChaosOptions
from sslortho.recipes.command_line import parse_config, user_errors
from sslortho.data import available_cores


def choose_faults(names: tuple[str, ...] | None) -> list[type[Fault]]:
    """The kinds, in the order of the registry. Raises ValueError for a name that is none."""
    for name in names or ():
        if name not in FAULTS:
            raise ValueError(f"faults: {name!r} is not one of {', '.join(FAULTS)}")
    return [kind for name, kind in FAULTS.items() if names is None or name in names]


def prepare_out(out: str | None) -> Path:
    """An empty folder. Raises ValueError if there is something in it."""
    if out is None:
        return Path(tempfile.mkdtemp(prefix="chaos-"))
    folder = Path(out).expanduser().resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"out={out!r} is not an empty folder; give another one")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def soak(config: ChaosOptions) -> int:
    """Run it and tell; the exit code."""
    kinds = choose_faults(config.fault_names)
    folder = prepare_out(config.out)
    started = time.monotonic()
    keep = config.out is not None
    try:
        jobs = config.jobs or available_cores()
        tally = Soak(folder, kinds, 60 * config.minutes, jobs, config.seed).run()
        seconds = time.monotonic() - started
        write_report(folder / "chaos.json", tally, asdict(config), seconds)
        print_table(tally)
        keep = keep or not tally.sound
        where = f"; kept in {folder}" if not tally.sound else ""
        print(f"{describe(tally)}{where}")
        return 0 if tally.sound else 1
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    restore_signals()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config = parse_config(ChaosOptions)
    with user_errors(config.debug):
        sys.exit(soak(config))


if __name__ == "__main__":
    main()
