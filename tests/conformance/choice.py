"""The adapters by name, and those of users in files of their own."""

import functools
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from conformance.adapter import Adapter
from conformance.others import OTHERS
from conformance.ours import OURS

ADAPTERS = {**OURS, **OTHERS}


@functools.cache
def load_adapter(name: str) -> Adapter:
    """The adapter of a name, or the one called NAME in a file; raises ValueError where there is none."""
    path, _, attribute = name.rpartition(":")
    if not path:
        if name not in ADAPTERS:
            raise ValueError(
                f"--optimizer {name}: not one of {', '.join(ADAPTERS)}, nor FILE.py:NAME"
            )
        if not ADAPTERS[name].available():
            raise ValueError(f"--optimizer {name}: not in the installed {ADAPTERS[name].package}")
        return ADAPTERS[name]
    spec = spec_from_file_location("own_adapter", path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise ValueError(f"--optimizer {name}: {path} is not a file of Python")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    adapter = getattr(module, attribute, None)
    if not isinstance(adapter, Adapter):
        raise ValueError(f"--optimizer {name}: {attribute} is not an Adapter in {path}")
    return adapter


def select_adapters(names: Sequence[str] | None) -> dict[str, Adapter]:
    """Adapters by name: those asked for, else all that are installed."""
    if names:
        return {name: load_adapter(name) for name in names}
    return {name: adapter for name, adapter in ADAPTERS.items() if adapter.available()}
