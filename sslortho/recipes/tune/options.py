"""What tune.py can be told: all that supervised training can, and what is searched."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from sslortho.runs.config_file import MAY_CHANGE
from sslortho.recipes.supervised.options import SupervisedOptions

SEARCHED = ("lr", "momentum", "weight_decay")


@dataclass(frozen=True, kw_only=True)
class TuneOptions(SupervisedOptions):
    """Bayesian search (Optuna's TPE) for the rate, momentum and weight decay of supervised training, by
    the accuracy on held-out training images. The test images are never looked at."""

    trials: int = 30
    """Runs in all, beside those that fail; a larger number goes on with a search that has ended."""
    search: str = "lr,momentum,weight_decay"
    """Comma-separated: which of the three are searched; the others stay as given. Momentum is beta1 for
    adam: of betas, if given, beta2 counts."""
    lr_range: tuple[float, float] = (1e-3, 1.0)
    """Lowest and highest rate, searched on a logarithmic scale."""
    momentum_range: tuple[float, float] = (0.0, 0.99)
    """Lowest and highest momentum."""
    weight_decay_range: tuple[float, float] = (1e-6, 1e-1)
    """Lowest and highest weight decay, searched on a logarithmic scale."""
    decay_all: bool = False
    """Biases and norms decay as the weights do."""
    objective: Literal["val_top1", "val_loss"] = "val_top1"
    """What decides, of the last epoch."""
    jobs: int | None = None
    """Trials at a time. Default: one a GPU; one on a CPU."""
    validation: float | None = 0.1
    """Share of the training images held out, balanced over the classes and chosen by seed."""
    test: bool = False
    """Must be false."""
    pictures: bool = False
    """Draw pictures of every trial; must be false."""
    out: str | None = None
    """Folder of the search. Default: runs/tune-{data}-{backbone}-{optim}."""

    def __post_init__(self) -> None:
        self._check_least(1, "trials", "jobs")
        self._check("test", not self.test, "false: nothing is chosen on test images")
        self._check("pictures", not self.pictures, "false")
        self._check("validation", self.validation is not None, "a share to choose on, such as 0.1")
        unknown = set(self.searched) - set(SEARCHED)
        self._check("search", bool(self.searched) and not unknown, f"some of {', '.join(SEARCHED)}")
        for name in SEARCHED:
            low, high = getattr(self, f"{name}_range")
            least = "0" if name == "momentum" else "above 0"
            self._check_effect("search", **{f"{name}_range": self._is_idle(name)})
            right = (low >= 0 if name == "momentum" else low > 0) and low < high
            self._check(f"{name}_range", right, f"two rising numbers, the lower {least}")
        self._check("momentum_range", self.momentum_range[1] < 1, "below 1")
        for name in self.searched:
            if self._is_given(name):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} has no effect where it is searched; give "
                    f"{name}_range, or leave {name} out of search"
                )
        self._check_effect("optim", decay_all=self.decay_all and "lars" in self.optim)
        if self.decay_all and self.weight_decay_biases:
            raise ValueError(
                f"weight_decay_biases={self.weight_decay_biases!r} has no effect with decay_all"
            )
        super().__post_init__()

    def _is_given(self, name: str) -> bool:
        return getattr(self, name) != type(self).__dataclass_fields__[name].default

    def _is_idle(self, name: str) -> bool:
        """Whether a range is given of what is not searched."""
        return name not in self.searched and self._is_given(f"{name}_range")

    @property
    def searched(self) -> tuple[str, ...]:
        """`search` as names."""
        return tuple(name.strip() for name in self.search.split(",") if name.strip())

    @property
    def fixed(self) -> dict[str, Any]:
        """Options of every trial."""
        names = [f.name for f in fields(SupervisedOptions) if f.name not in ("out", "debug")]
        values = {name: getattr(self, name) for name in names if name not in self.searched}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def settings(self) -> dict[str, Any]:
        """Whatever a trial's result depends on, beside what is searched; None where nothing is given."""
        names = [f.name for f in fields(SupervisedOptions) if f.name not in MAY_CHANGE]
        values = {name: getattr(self, name) for name in names if name not in self.searched}
        return {**values, "decay_all": self.decay_all, "objective": self.objective}

    @property
    def run_folder(self) -> Path:
        """Where the search lives."""
        return Path(self.out or f"runs/tune-{self.data}-{self.backbone_slug}-{self.optim}")
