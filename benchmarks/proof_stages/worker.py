"""The process that does the work of some units, one after another."""

import time
import traceback
from collections.abc import Sequence

from .context import Context, PartialError, SkippedError, StoppedError
from .registry import Unit, find_unit


def carry_out(context: Context, unit: Unit) -> None:
    """Run one unit, and write its result whatever happens."""
    results, began = context.results, time.time()
    results.begin(unit.name)
    try:
        figures = unit.load()(context)
    except SkippedError as reason:
        results.write(unit.name, "skipped", seconds=time.time() - began, error=str(reason))
    except StoppedError:
        raise
    except PartialError as error:
        took = time.time() - began
        results.write(unit.name, "failed", seconds=took, error=str(error), figures=error.figures)
    except Exception:  # the other units do not depend on it
        error = traceback.format_exc()
        print(error, flush=True)
        lines = error.strip().splitlines()[-12:]
        results.write(unit.name, "failed", seconds=time.time() - began, error="\n".join(lines))
    else:
        results.write(unit.name, "done", seconds=time.time() - began, figures=figures)


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
