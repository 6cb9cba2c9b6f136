"""Options of growth.py."""

from dataclasses import dataclass

from sslortho.options import Options, option


@dataclass(frozen=True, kw_only=True)
class GrowthOptions(Options):
    """Measure how time and memory grow with the number of images, features, products and bytes."""

    parts: str | None = option(None)
    """Comma-separated names of parts. Default: all."""
    quick: bool = option(False)
    """Small sizes, under two minutes on two cores. The figures show that it runs, and little more."""
    most: int | None = option(None)
    """Leave out larger sizes than this, in the unit of each part. Default: none."""
    rounds: int | None = option(None)
    """Times that each work is done; the median counts. Default 3, with quick 1."""
    out: str = option("runs/growth", group="output", path=True)
    """Folder of growth.json, growth.png and growth.md; parts/ holds each part's figures, which are not
    measured again."""
    work: str | None = option(None, group="output", path=True)
    """Folder for made-up data, up to 2 GB, which stays. Default: a temporary one, which is removed."""
    debug: bool = option(False, group="output", rare=True)
    """Show the traceback of a user's error."""

    def __post_init__(self) -> None:
        self._check_least(1, "rounds", "most")
        super().__post_init__()

    @property
    def round_count(self) -> int:
        """`rounds`, or its default."""
        return self.rounds or (1 if self.quick else 3)
