"""The kinds of faults by name."""

from .checkpoint_faults import Flip, Foreign, Truncate
from .data_faults import FileDeleted, FileTruncated, WriterDies
from .faults import Fault
from .signal_faults import (
    Interrupt,
    InterruptTwice,
    Kill,
    KillInSave,
    NotFinite,
    RankDies,
    Requeue,
    Terminate,
)
from .storage_faults import DiskFull, FileLimit, ReadOnly, Vanish

FAULTS: dict[str, type[Fault]] = {
    kind.name: kind
    for kind in (
        Kill, KillInSave, Terminate, Requeue, Interrupt, InterruptTwice, FileLimit, DiskFull,
        ReadOnly, Vanish, Truncate, Flip, Foreign, RankDies, WriterDies, FileDeleted,
        FileTruncated, NotFinite,
    )
}  # fmt: skip


def choose_faults(names: tuple[str, ...] | None) -> list[type[Fault]]:
    """The kinds with these names, in the order of the registry; all for None.

    Raises ValueError for an unknown name.
    """
    for name in names or ():
        if name not in FAULTS:
            raise ValueError(f"faults: {name!r} is not one of {', '.join(FAULTS)}")
    return [kind for name, kind in FAULTS.items() if names is None or name in names]
