"""Options of `tune`: those of `supervised`, and what is searched."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from sslortho.options import facts, option
from sslortho.recipes.supervised.options import SupervisedOptions

SEARCHED = ("lr", "momentum", "weight_decay")


@dataclass(frozen=True, kw_only=True)
class TuneOptions(SupervisedOptions):
    """Bayesian search (Optuna's TPE) for the rate, momentum and weight decay of supervised training, by
    the accuracy on held-out training images. The test images are never looked at."""

    command: ClassVar[str] = "tune"

    trials: int = option(30, group="optimisation", may_change=True, affects_result=False)
    """Number of complete trials; those that fail do not count. A larger number continues a search that
    has ended."""
    search: str = option("lr,momentum,weight_decay", group="optimisation")
    """Comma-separated: which of the three are searched; the others stay as given. Momentum is beta1 for
    adam: of betas, if given, beta2 counts."""
    lr_range: tuple[float, float] = option((1e-3, 1.0), group="optimisation")
    """Lowest and highest learning rate, searched on a logarithmic scale."""
    momentum_range: tuple[float, float] = option((0.0, 0.99), group="optimisation")
    """Lowest and highest momentum."""
    weight_decay_range: tuple[float, float] = option((1e-6, 1e-1), group="optimisation")
    """Lowest and highest weight decay, searched on a logarithmic scale."""
    decay_all: bool = option(False, group="optimisation")
    """Biases and norms decay as the weights do."""
    objective: Literal["val_top1", "val_loss"] = option("val_top1", group="optimisation")
    """Figure of the last epoch that decides."""
    jobs: int | None = option(None, group="hardware", may_change=True, affects_result=False)
    """Trials at a time. Default: one for each GPU; one on a CPU."""
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
        """Whether a range is given for a hyperparameter that is not searched."""
        return name not in self.searched and self._is_given(f"{name}_range")

    @property
    def searched(self) -> tuple[str, ...]:
        """`search` as names."""
        return tuple(name.strip() for name in self.search.split(",") if name.strip())

    @property
    def shared(self) -> dict[str, Any]:
        """Options that all trials share, without those that are None."""
        names = [f.name for f in fields(SupervisedOptions) if f.name not in ("out", "debug")]
        values = {name: getattr(self, name) for name in names if name not in self.searched}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that a search must keep to be continued: the trials' results depend on them.

        Not the folder of the data, which may move.
        """
        counting = [
            name
            for name, fact in facts(SupervisedOptions).items()
            if fact.affects_result and not fact.may_change and name != "data_dir"
        ]
        values = {name: getattr(self, name) for name in counting if name not in self.searched}
        return {**values, "decay_all": self.decay_all, "objective": self.objective}

    @property
    def default_folder(self) -> str:
        return f"runs/tune-{self.data_name}-{self.backbone_slug}-{self.optim}"
