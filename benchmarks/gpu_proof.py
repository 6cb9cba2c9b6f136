"""Verify and measure on one GPU what the documentation calls unmeasured: `python benchmarks/gpu_proof.py`.

    python benchmarks/gpu_proof.py --cifar D --minutes 30       # or --minutes 9, again and again
    python benchmarks/gpu_proof.py --rehearse                   # all of it at toy size on a CPU
    python benchmarks/gpu_proof.py table runs/gpu_proof         # the documentation's tables, in Markdown

Units run in order of worth, each in its stage's process; each writes its result at once, so the same
command goes on where the last one stopped.
"""

import sys
import time
from pathlib import Path

from proof_stages.conduct import Conductor
from proof_stages.context import Context
from proof_stages.options import ProofOptions
from proof_stages.registry import choose_units
from proof_stages.results import read_whole
from proof_stages.tables import write_tables
from sslortho.recipes.command_line import parse_options, user_errors


def prove(options: ProofOptions) -> int:
    """Run what is not done; 1 if something failed or is left, 128 + signal if one stopped it, else 0.

    Raises ValueError for a folder with results of a rehearsal where this is none, and the other way.
    """
    began = time.time()
    context, units = Context(options), choose_units(options.only)
    for name in ("cifar", "photographs"):
        folder = getattr(options, name)
        if folder is not None and not Path(folder).is_dir():
            raise ValueError(f"{name}={folder!r} is not a folder")
    machine = context.results.read("machine").get("figures", {})
    if machine and machine["rehearsal"] != options.rehearse:
        kind = "a rehearsal" if machine["rehearsal"] else "a GPU"
        raise ValueError(f"out={options.out!r} holds results of {kind}; give another --out")
    conductor = Conductor(context, units, began + 60 * options.minutes)
    conductor.run()
    context.results.write_whole()
    tables = write_tables(context.results.collect())
    (context.out / "tables.md").write_text(tables, encoding="utf-8")
    states = [context.results.state(unit.name) for unit in units]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    print(f"{counts}; {context.out}/gpu_proof.json, tables.md; {time.time() - began:.0f} s")
    if conductor.signal is not None:
        return 128 + conductor.signal
    return int(any(state in ("failed", "pending") for state in states))


def main() -> None:
    command, *rest = sys.argv[1:] or [""]
    if command == "table":
        with user_errors(False):
            if len(rest) != 1:
                raise ValueError(
                    "table takes one argument, the folder of the results or their file"
                )
            print(write_tables(read_whole(Path(rest[0]))), end="")
        return
    if command == "worker":  # of the conductor
        from proof_stages.worker import work

        names, end, *given = rest
        context = Context(parse_options(ProofOptions, given))
        sys.exit(work(context, names.split(","), float(end)))
    options = parse_options(ProofOptions)
    with user_errors(options.debug):
        sys.exit(prove(options))


if __name__ == "__main__":
    main()
