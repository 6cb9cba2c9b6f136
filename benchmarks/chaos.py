"""Break trainings and resume them, for as long as asked: `python benchmarks/chaos.py --minutes 30`.

Every broken run must end with the same bits as an unbroken one. The exit code is 1 if one does not.
Linux only; needs psutil: `pip install 'sslortho[bench]'`.
"""

import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from chaos_soak.options import ChaosOptions
from chaos_soak.processes import require_psutil, restore_signals
from chaos_soak.registry import choose_faults
from chaos_soak.results import print_table, summarise, write_results
from chaos_soak.soak import Soak
from sslortho.data import available_cores
from sslortho.recipes.command_line import parse_options, user_errors


def prepare_out(out: str | None) -> Path:
    """Create the output folder, a temporary one for None. Raises ValueError if it is not empty."""
    if out is None:
        return Path(tempfile.mkdtemp(prefix="chaos-"))
    folder = Path(out).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"out={out!r} is not an empty folder; give another one")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run_soak(options: ChaosOptions) -> int:
    """Run the soak and print its results; returns the exit code."""
    require_psutil()
    kinds = choose_faults(options.fault_names)
    folder = prepare_out(options.out)
    started = time.monotonic()
    keep = options.out is not None
    try:
        jobs = options.jobs or available_cores()
        tally = Soak(folder, kinds, 60 * options.minutes, jobs, options.seed).run()
        seconds = time.monotonic() - started
        write_results(folder / "chaos.json", tally, asdict(options), seconds)
        print_table(tally)
        keep = keep or not tally.sound
        where = f"; kept in {folder}" if not tally.sound else ""
        print(f"{summarise(tally)}{where}")
        return 0 if tally.sound else 1
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    restore_signals()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = parse_options(ChaosOptions)
    with user_errors(options.debug):
        sys.exit(run_soak(options))


if __name__ == "__main__":
    main()
