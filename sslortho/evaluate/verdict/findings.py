"""Verdict and the findings that it rests on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

HEALTHY = "healthy"
POINT = "collapsed to a point"
DIMENSIONAL = "dimensional collapse"
DIVERGING = "diverging"
TOO_HIGH = "rate too high"
TOO_LOW = "rate too low"
NOT_BETTER = "not better than the untrained network"
WORSE = "worse than the initial weights"
DATA = "data repeated or nearly constant"
VIEWS = "views nearly the same"
UNDECIDED = "undecided"

NAMES = (
    DATA, VIEWS, DIVERGING, TOO_HIGH, POINT, DIMENSIONAL, TOO_LOW, NOT_BETTER, WORSE, HEALTHY,
    UNDECIDED,
)  # fmt: skip
"""Names of all verdicts. Of several findings the first one here is the verdict: a cause comes before its
effects."""

CLEAR_EARLY = (DATA, VIEWS, DIVERGING, TOO_HIGH, POINT)
"""Verdicts that are said while a run trains: no further step will mend them."""

ADVICE: Mapping[str, tuple[str, ...]] = {
    DATA: (
        "look at the images: are they all read, and do they differ?",
        "leave out copies and empty images",
    ),
    VIEWS: ("look at views.png; take --views auto, or views that crop and change colours more",),
    DIVERGING: (
        "lower --lr by a factor of 10, or raise --warmup_epochs",
        "with fp16: --mixed_precision bf16 or no",
    ),
    TOO_HIGH: ("lower --lr by a factor of 10 and train again from the start",),
    POINT: (
        "lower --lr by a factor of 3 to 10, or raise --warmup_epochs",
        "take the method's own options (--help after --method), and a larger --batch_size",
        "try another method: the losses of barlow_twins, vicreg and simclr hold images apart",
    ),
    DIMENSIONAL: (
        "if you changed the weights of the loss's terms or the temperature, take the defaults",
        "widen the projector, or strengthen the augmentations",
        "lower --lr by a factor of 3",
    ),
    TOO_LOW: (
        "raise --lr by a factor of 10, and again until the loss falls",
        "train longer: more --epochs",
    ),
    NOT_BETTER: (
        "try --lr three times higher and three times lower",
        "train longer; take the method's own options and views",
        "look at views.png: can a person tell that two views are of one image?",
    ),
    WORSE: (
        "keep the initial weights: their features are better",
        "lower --lr by a factor of 3 to 10; train fewer epochs",
    ),
    HEALTHY: (),
    UNDECIDED: ("train longer, or evaluate more often (--evaluate_every)",),
}
"""Name of a verdict to what to try, the most promising first."""


@dataclass(frozen=True)
class Finding:
    """One observation about a run."""

    name: str
    """Name of the verdict that it speaks for, one of NAMES."""
    figure: str
    """Figure that it rests on, in words."""
    value: float
    """Value of the figure; nan where it is not finite or not known."""
    relation: Literal["below", "above", "not finite", "not known", "at least", "at most"]
    """Relation of the value to the threshold."""
    threshold: float
    """Value that decides."""
    unit: str = ""
    advice: tuple[str, ...] | None = None
    """Remedies of its own; None for those of its verdict."""

    def describe(self) -> str:
        """The figure with its value and threshold: "RankMe of the features: 1.2, below 4.5"."""
        if self.relation in ("not finite", "not known"):
            return f"{self.figure}: {self.relation}"
        short = " %" if self.unit.startswith(" %") else ""
        return (
            f"{self.figure}: {_number(self.value)}{short}, {self.relation} "
            f"{_number(self.threshold)}{self.unit}"
        )


@dataclass(frozen=True)
class Verdict:
    """Whether a run went well, and why."""

    name: str
    """One of NAMES: that of the first finding."""
    findings: tuple[Finding, ...]
    """Observations that it rests on; one or more, in the order of NAMES."""

    @property
    def accuses(self) -> bool:
        """Whether something is wrong with the run."""
        return self.name not in (HEALTHY, UNDECIDED)

    @property
    def advice(self) -> tuple[str, ...]:
        """Remedies to try, the most promising first."""
        own = self.findings[0].advice
        return ADVICE[self.name] if own is None else own

    def values(self) -> dict[str, Any]:
        """Content for summary.json."""
        return {
            "name": self.name,
            "findings": [
                {**_figures(finding), "text": finding.describe()} for finding in self.findings
            ],
            "advice": list(self.advice),
        }

    def lines(self) -> list[str]:
        """Lines for a terminal: the name, each finding, what to try."""
        return verdict_lines(self.values())


def verdict_lines(values: Mapping[str, Any]) -> list[str]:
    """The same of a verdict as summary.json has it; see `Verdict.values`."""
    name = values["name"]
    return [
        f"verdict: {name}",
        *(
            f"  {f['text']}" + ("" if f["name"] == name else f" ({f['name']})")
            for f in values["findings"]
        ),
        *(f"  try: {text}" for text in values["advice"]),
    ]


def _figures(finding: Finding) -> dict[str, Any]:
    values = asdict(finding)
    del values["advice"]
    return values


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
