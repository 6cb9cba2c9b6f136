"""The process that does the work of some units, one after another."""

import time
import traceback
from collections.abc import Sequence
from typing import Any

from .context import Context, PartialError, SkippedError, StoppedError
from .registry import Unit, find_unit


def carry_out(context: Context, unit: Unit) -> None:
    """Run one unit, and write its result whatever happens."""
    results, began = context.results, time.time()
    commit = context.commit  # before the work: the checkout may change meanwhile

    def write(state: str, **entries: Any) -> None:
        if "figures" in entries:  # the GPU after the work: children of a unit may want it all
            entries |= {"commit": commit, "gpu": context.find_gpu()}
        results.write(unit.name, state, seconds=time.time() - began, **entries)

    results.begin(unit.name)
    try:
        figures = unit.load()(context)
    except SkippedError as reason:
        write("skipped", error=str(reason))
    except StoppedError:
        raise
    except PartialError as error:
        write("failed", error=str(error), figures=error.figures)
    except Exception:  # the other units do not depend on it
        error = traceback.format_exc()
        print(error, flush=True)
        lines = error.strip().splitlines()[-12:]
        write("failed", error="\n".join(lines))
    else:
        write("done", figures=figures)


def work(context: Context, names: Sequence[str], end: float) -> int:
    """Run the units that there is time for; the exit code."""
    for name in names:
        unit = find_unit(name)
        if not context.small and time.time() + unit.seconds > end:
            continue
        try:
            carry_out(context, unit)
        except StoppedError:
            return 0
        if not context.small:
            _free()
    return 0


def _free() -> None:
    import gc

    import torch

    gc.collect()
    torch.cuda.empty_cache()
