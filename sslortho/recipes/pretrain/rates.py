"""Learning rates that are known for pretraining, and the one for a run of another length.

To add a rate, add one `Rate` to RATES: nothing else needs to change.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sslortho.recipes.fitted import Choice

Order = Literal["after", "before", "both", "none"]
"""Where momentum stands in a step: after the orthonormalisation, before it, both, or there is none."""

Kind = Literal["measured here", "published", "start"]
"""Worth of a rate. start: one to begin a search with, which nobody has tested for pretraining."""

SIMILAR = 10
"""Factor between two numbers of images that count as one scale."""


@dataclass(frozen=True)
class Rate:
    """A learning rate of the weights, per 256 samples, with its source."""

    method: str | None
    """Method that it is for; None: any that has no rate of its own at that length."""
    optim: str
    order: Order
    lr: float
    steps: tuple[int, int]
    """Length of the shortest and of the longest run that it is known for, in optimizer steps."""
    images: tuple[int, int]
    """Smallest and largest number of training images that it is known for."""
    kind: Kind
    source: str

    def covers(self, steps: int, images: int) -> bool:
        """Whether it was tested on a run of this length, with about as many images."""
        few, many = self.images
        close = few / SIMILAR <= images <= many * SIMILAR
        return self.kind != "start" and self.steps[0] <= steps <= self.steps[1] and close


_SMALL, _TEN, _IMAGENET = (5_000, 10_000), (10_000, 10_000), (1_281_167, 1_281_167)
"""Numbers of images: of the grids of docs/paper.md on CIFAR-10 (JPEG), of docs/order, and of ImageNet."""

_GRID = "a grid on 5,000 images of CIFAR-10, then one run on 10,000, docs/paper.md"
_ORDER = "first trial of the search in configs/paper/order.yaml"
_TUNED = "tuned on 10,000 images of CIFAR-10, docs/order"
_LONG_ORDER = "LARS's for Barlow Twins, times the ratio of the short runs' rates"

# All are scaled by batch / 256: by the authors' code, for MoCo by its README. That is no law for VICReg:
# appendix C.4 of arXiv 2105.04906 has, for 100 epochs, 0.4 for batches of 512 and 0.5 for 256
# (facebookresearch/vicreg#21 and #23), its README 0.3 for 512 too.
_TWINS = (
    "facebookresearch/barlowtwins, main.py, ImageNet, 1,000 epochs in batches of 2,048; 300: "
    "open-mmlab/mmselfsup"
)
_SIMCLR = "arXiv 2002.05709, section 2.2, ImageNet, 100 to 1,000 epochs in batches of 4,096"
_VICREG_SHORT = (
    "facebookresearch/vicreg, README and #13, ImageNet, 100 epochs in batches of 512 and 2,048"
)
_VICREG = "arXiv 2105.04906, section 4.2, ImageNet, 1,000 epochs in batches of 2,048"
_BYOL = "google-deepmind/deepmind-research, byol/configs/byol.py, ImageNet, {} epochs in batches of 4,096"
_SIMSIAM = (
    "arXiv 2011.10566, section 3 and table 4, ImageNet, 100 epochs in batches of 512 to 800 in "
    "batches of 256"
)
_MOCO = "facebookresearch/moco, README, ImageNet, 200 and 800 epochs in batches of 256"
_DINO = (
    "facebookresearch/dino, README, ImageNet, vision transformers, 100 epochs in batches of 512 to "
    "300 in batches of 1,024"
)
_DINO_RESNET = "facebookresearch/dino, README, ImageNet, ResNet-50, 100 epochs in batches of 512"
_LEJEPA = (
    "rbalestr-lab/lejepa, scripts/launch_views_ablation.md, ImageNet, vision transformers, 100 epochs in "
    "batches of 512"
)
_LEJEPA_SMALL = "rbalestr-lab/lejepa, MINIMAL.md, Imagenette, 800 epochs in batches of 256"
# The optimizer of tsb0601/EMP-SSL steps by 0.005 of a weight's length whatever its rate, until a bound decays
# below that; LARS, whose trust coefficient is 0.001, does so at 5 for its batches of 100.
_EMP_SSL = (
    "steps as long as those of tsb0601/EMP-SSL, main.py, CIFAR-10, 1 to 30 epochs in batches of 100"
)

RATES: tuple[Rate, ...] = (
    # Any method. The grids had 57 or 76 steps, the runs with the best rates 351 or 702.
    Rate(None, "lars", "after", 2, (76, 702), _SMALL, "start", "LARS's for Barlow Twins"),
    Rate(None, "lars", "after", 0.2, (187_500, 625_000), _IMAGENET, "start", "LARS's for Barlow Twins"),
    Rate(None, "orth_lars", "after", 6, (76, 702), _SMALL, "start", "Orthogonal-LARS's for Barlow Twins"),
    Rate(None, "orth_lars", "after", 0.2, (187_500, 625_000), _IMAGENET, "start", "LARS's for Barlow Twins"),
    Rate(None, "orth_lars", "before", 20, (76, 702), _SMALL, "start", _ORDER),
    Rate(None, "orth_lars", "none", 20, (76, 702), _SMALL, "start", _ORDER),
    Rate(None, "orth_lars", "before", 0.7, (187_500, 625_000), _IMAGENET, "start", _LONG_ORDER),
    Rate(None, "orth_lars", "none", 0.7, (187_500, 625_000), _IMAGENET, "start", _LONG_ORDER),
    Rate(None, "sgd", "after", 0.003, (76, 702), _SMALL, "start", _ORDER),
    Rate(None, "orth_sgd", "after", 0.01, (76, 702), _SMALL, "start", _ORDER),
    Rate(None, "orth_sgd", "before", 0.1, (76, 702), _SMALL, "start", _ORDER),
    Rate(None, "orth_sgd", "none", 0.1, (76, 702), _SMALL, "start", _ORDER),
    Rate(None, "muon", "before", 0.05, (76, 702), _SMALL, "start", _ORDER),
    Rate(None, "adam", "after", 0.003, (76, 702), _SMALL, "start", f"AdamW's: {_ORDER}"),
    Rate(None, "adam", "after", 0.0005, (250_200, 375_300), _IMAGENET, "start", f"AdamW's for DINO: {_DINO}"),
    Rate(None, "adamw", "after", 0.003, (76, 702), _SMALL, "start", _ORDER),
    Rate(None, "adamw", "after", 0.0005, (250_200, 375_300), _IMAGENET, "start", f"that of DINO: {_DINO}"),
    Rate(None, "orth_adam", "after", 0.01, (76, 702), _SMALL, "start", f"Orthogonal-AdamW's: {_ORDER}"),
    Rate(None, "orth_adam", "before", 0.01, (76, 702), _SMALL, "start", f"Orthogonal-AdamW's: {_ORDER}"),
    Rate(None, "orth_adam", "none", 0.01, (76, 702), _SMALL, "start", f"Orthogonal-AdamW's: {_ORDER}"),
    Rate(None, "orth_adamw", "after", 0.01, (76, 702), _SMALL, "start", _ORDER),
    Rate(None, "orth_adamw", "before", 0.01, (76, 702), _SMALL, "start", _ORDER),
    Rate(None, "orth_adamw", "none", 0.01, (76, 702), _SMALL, "start", _ORDER),
    Rate(None, "norm_sgd", "after", 0.01, (76, 702), _SMALL, "start", "that of orth_sgd"),
    Rate(None, "component_norm_sgd", "after", 0.01, (76, 702), _SMALL, "start", "that of orth_sgd"),
    Rate("barlow_twins", "lars", "after", 2, (76, 702), _SMALL, "measured here", _GRID),
    Rate("barlow_twins", "lars", "after", 0.2, (187_500, 625_000), _IMAGENET, "published", _TWINS),
    # 19 was better than 6 at 195 steps (docs/order), but rates never rise with the length here.
    Rate("barlow_twins", "orth_lars", "after", 6, (76, 702), _SMALL, "measured here", _GRID),
    Rate("barlow_twins", "orth_lars", "before", 63, (195, 195), _TEN, "measured here", _TUNED),
    Rate("barlow_twins", "orth_sgd", "after", 0.01, (195, 195), _TEN, "measured here", _TUNED),
    Rate("barlow_twins", "orth_sgd", "before", 0.0316, (195, 195), _TEN, "measured here", _TUNED),
    Rate("barlow_twins", "muon", "before", 0.05, (195, 195), _TEN, "measured here", _TUNED),
    Rate("simclr", "lars", "after", 6, (57, 351), _SMALL, "measured here", _GRID),
    Rate("simclr", "lars", "after", 0.3, (31_200, 312_000), _IMAGENET, "published", _SIMCLR),
    Rate("simclr", "orth_lars", "after", 20, (57, 351), _SMALL, "measured here", _GRID),
    Rate("simclr", "orth_lars", "after", 0.3, (31_200, 312_000), _IMAGENET, "start", f"LARS's: {_SIMCLR}"),
    Rate("vicreg", "lars", "after", 6, (57, 351), _SMALL, "measured here", _GRID),
    Rate("vicreg", "lars", "after", 0.3, (62_500, 250_200), _IMAGENET, "published", _VICREG_SHORT),
    Rate("vicreg", "lars", "after", 0.2, (625_000, 625_000), _IMAGENET, "published", _VICREG),
    Rate("vicreg", "orth_lars", "after", 6, (57, 351), _SMALL, "measured here", _GRID),
    Rate("vicreg", "orth_lars", "after", 0.3, (62_500, 250_200), _IMAGENET, "start",
         f"LARS's: {_VICREG_SHORT}"),
    Rate("byol", "lars", "after", 0.45, (12_480, 31_200), _IMAGENET, "published", _BYOL.format("40 and 100")),
    Rate("byol", "lars", "after", 0.3, (93_600, 93_600), _IMAGENET, "published", _BYOL.format("300")),
    Rate("byol", "lars", "after", 0.2, (312_000, 312_000), _IMAGENET, "published", _BYOL.format("1,000")),
    Rate("simsiam", "sgd", "after", 0.05, (250_200, 4_003_200), _IMAGENET, "published", _SIMSIAM),
    Rate("moco_v2", "sgd", "after", 0.03, (1_000_800, 4_003_200), _IMAGENET, "published", _MOCO),
    Rate("dino", "adamw", "after", 0.0005, (250_200, 375_300), _IMAGENET, "published", _DINO),
    Rate("dino", "sgd", "after", 0.03, (250_200, 250_200), _IMAGENET, "published", _DINO_RESNET),
    Rate("lejepa", "adamw", "after", 0.002, (28_800, 28_800), (9_469, 9_469), "published", _LEJEPA_SMALL),
    Rate("lejepa", "adamw", "after", 0.00025, (250_200, 250_200), _IMAGENET, "published", _LEJEPA),
    Rate("emp_ssl", "lars", "after", 12.8, (500, 15_000), (50_000, 50_000), "start", _EMP_SSL),
)  # fmt: skip
"""Known rates; the first that fits counts."""

WITHOUT_MOMENTUM = 10
"""Factor of a rate whose momentum no longer stands at the end: steps are 1 / (1 - 0.9) times shorter. Not of
Adam's kind, whose momentum is a mean, not a sum."""


def momentum_order(optim: str, settings: dict[str, float | None]) -> Order:
    """Where momentum stands in an optimizer's step.

    Args:
        optim: name of the optimizer.
        settings: the options momentum and orth_momentum, and the first of betas as beta1; None where one
            is not given.
    """
    first = settings.get("beta1") if "adam" in optim else settings.get("momentum")
    if optim == "muon":
        return "none" if settings.get("momentum") == 0 else "before"
    before = bool(settings.get("orth_momentum"))
    after = bool(first) if first is not None else not before
    if after:
        return "both" if before else "after"
    return "before" if before else "none"


def _find_known(method: str, optim: str, order: Order) -> list[Rate]:
    """Rates of a method, and beyond their lengths those of any method, from short to long runs."""
    fitting = [rate for rate in RATES if (rate.optim, rate.order) == (optim, order)]
    own = [rate for rate in fitting if rate.method == method]
    shortest = min((rate.steps[0] for rate in own), default=math.inf)
    longest = max((rate.steps[1] for rate in own), default=-math.inf)
    others = [
        rate
        for rate in fitting
        if rate.method is None and (rate.steps[1] < shortest or rate.steps[0] > longest)
    ]
    return sorted([*own, *others], key=lambda rate: rate.steps)


def _untested(steps: int, images: int) -> str:
    return f"never tested at this scale ({steps:,} {'step' if steps == 1 else 'steps'}, {images:,} images)"


def _interpolate(known: Sequence[Rate], steps: int, images: int) -> Choice:
    """The rate for a run of this length, from rates that are sorted by length."""
    for rate in known:
        if rate.steps[0] <= steps <= rate.steps[1]:
            known_for = f"known for {_describe_steps(rate)}"
            if rate.covers(steps, images):
                return Choice(rate.lr, known_for, f"{rate.kind}: {rate.source}")
            return Choice(rate.lr, f"{known_for}, {rate.source}", _untested(steps, images))
    below = [rate for rate in known if rate.steps[1] < steps]
    above = [rate for rate in known if rate.steps[0] > steps]
    if not below or not above:
        nearest = below[-1] if below else above[0]
        reason = f"that of the nearest length, {_describe_steps(nearest)}, {nearest.source}"
        return Choice(nearest.lr, reason, _untested(steps, images))
    short, long = below[-1], above[0]
    place = math.log(steps / short.steps[1]) / math.log(long.steps[0] / short.steps[1])
    lr = short.lr * (long.lr / short.lr) ** place
    reason = (
        f"between {short.lr:g} for {short.steps[1]:,} steps ({short.source}) and {long.lr:g} for "
        f"{long.steps[0]:,} ({long.source}), on a straight line in the logarithms of steps and rate"
    )
    return Choice(float(f"{lr:.2g}"), reason, _untested(steps, images))


def _describe_steps(rate: Rate) -> str:
    low, high = rate.steps
    return f"{low:,} steps" if low == high else f"{low:,} to {high:,} steps"


def choose_rate(method: str, optim: str, order: Order, steps: int, images: int) -> Choice:
    """Learning rate of the weights, per 256 samples, for a run of this length.

    Between the lengths of two known rates it lies on a straight line in the logarithms of steps and rate;
    beyond them it is the nearest one's. An order of momentum without a rate of its own has that of
    momentum after the orthonormalisation, times WITHOUT_MOMENTUM unless momentum stands at the end too, or is
    Adam's.

    Args:
        method, optim: names of method and optimizer.
        order: see `momentum_order`.
        steps: optimizer steps of the whole run.
        images: number of training images.
    """
    if known := _find_known(method, optim, order):
        return _interpolate(known, steps, images)
    base = _interpolate(_find_known(method, optim, _usual_order(optim)), steps, images)
    as_long = order == "both" or optim == "muon" or "adam" in optim
    factor = 1 if as_long else WITHOUT_MOMENTUM
    reason = base.reason
    if factor > 1:
        reason = (
            f"{factor} times that with momentum, since steps are as much shorter without: {reason}"
        )
    return Choice(float(f"{base.value * factor:.2g}"), reason, _untested(steps, images))


def _usual_order(optim: str) -> Order:
    return "before" if optim == "muon" else "after"
