"""Options of `show_views`: all of pretraining's, and which views are shown."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sslortho.options import option
from sslortho.recipes.pretrain.options import PretrainOptions


@dataclass(frozen=True, kw_only=True)
class ShowViewsOptions(PretrainOptions):
    """Draw the views that pretraining with the same options shows the model; captions say what was
    drawn."""

    command: ClassVar[str] = "show_views"

    count: int = option(8, group="output", unit="samples")
    """Samples shown: the first of the first batch, which has fewer where there are few images."""
    epoch: int = option(0, group="output")
    """Epoch of the batch."""
    out: str | None = None
    """Picture to write, .png, .pdf or .svg. Default views.png."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_least(1, "count")
        self._check("epoch", 0 <= self.epoch < 2**32, "from 0 to 2**32 - 1")
        suffix = Path(self.picture).suffix
        self._check(
            "out",
            suffix in (".png", ".pdf", ".svg"),
            "a picture (.png, .pdf or .svg); give --out views.png",
        )

    @property
    def picture(self) -> str:
        """`out`, or its default."""
        return self.out or "views.png"

    @property
    def skip_list(self) -> Path | None:
        """None: there is no run folder to list them in."""
        return None
