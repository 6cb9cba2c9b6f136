"""All parts of growth.py by name."""

from .data_parts import DATA_PARTS
from .feature_parts import FEATURE_PARTS
from .options import GrowthOptions
from .part import Part
from .training_parts import training_parts


def choose_parts(options: GrowthOptions) -> dict[str, Part]:
    """The parts that are asked for. Raises ValueError for a name that none has."""
    known = {**DATA_PARTS, **FEATURE_PARTS, **training_parts()}
    if options.parts is None:
        return known
    names = [name.strip() for name in options.parts.split(",")]
    for name in names:
        if name not in known:
            raise ValueError(f"parts={options.parts!r}: {name!r} is not one of {', '.join(known)}")
    return {name: known[name] for name in names}


def choose_sizes(part: Part, options: GrowthOptions) -> tuple[int, ...]:
    """Sizes of a part that are measured; at least the smallest one."""
    sizes = part.quick if options.quick else part.sizes
    return tuple(s for s in sizes if options.most is None or s <= options.most) or sizes[:1]
