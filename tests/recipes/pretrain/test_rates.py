"""The learning rate of a run by its length, from rates that are known for others."""

import math

import pytest

from sslortho.methods.options import METHOD_OPTIONS
from sslortho.optim import OPTIMIZERS
from sslortho.recipes.pretrain.rates import RATES, choose_rate, momentum_order

ORDERS = ("after", "before", "both", "none")


@pytest.mark.parametrize(
    "rate", RATES, ids=lambda r: f"{r.method}-{r.optim}-{r.order}-{r.steps[0]}"
)
def test_every_rate_is_a_sensible_entry(rate):
    assert rate.method is None or rate.method in METHOD_OPTIONS
    assert rate.optim in OPTIMIZERS
    assert rate.lr > 0
    assert 1 <= rate.steps[0] <= rate.steps[1]
    assert 1 <= rate.images[0] <= rate.images[1]
    assert rate.source


def test_known_lengths_of_one_method_do_not_overlap():
    for one in RATES:
        for other in RATES:
            if one is not other and (one.method, one.optim, one.order) == (
                other.method, other.optim, other.order
            ):  # fmt: skip
                assert one.steps[1] < other.steps[0] or other.steps[1] < one.steps[0]


@pytest.mark.parametrize(
    ("method", "optim", "steps", "images", "lr", "tested"),
    [
        # docs/paper.md, docs/methods.md: the tables of figure 7 in small, and of SimCLR and VICReg
        ("barlow_twins", "lars", 702, 10_000, 2, "measured here"),
        ("barlow_twins", "orth_lars", 76, 5_000, 6, "measured here"),
        # docs/order/README.md: the table of all trials, at the usual momentum
        ("barlow_twins", "orth_sgd", 195, 10_000, 0.01, "measured here"),
        ("simclr", "lars", 351, 10_000, 6, "measured here"),
        ("simclr", "orth_lars", 351, 10_000, 20, "measured here"),
        ("vicreg", "orth_lars", 57, 5_000, 6, "measured here"),
        # 1,000 epochs of 1,281,167 images in batches of 2,048; 100 in batches of 4,096
        ("barlow_twins", "lars", 1000 * (1_281_167 // 2048), 1_281_167, 0.2, "published: facebook"),
        (
            "simclr",
            "lars",
            100 * (1_281_167 // 4096),
            1_281_167,
            0.3,
            "published: arXiv 2002.05709",
        ),
        (
            "simsiam",
            "sgd",
            100 * (1_281_167 // 512),
            1_281_167,
            0.05,
            "published: arXiv 2011.10566",
        ),
        # nobody has taken LARS's rate with Orthogonal-LARS
        ("barlow_twins", "orth_lars", 300_000, 1_281_167, 0.2, "never tested at this scale"),
        # as long, but with a hundredth of the images
        ("barlow_twins", "orth_lars", 143, 80, 6, "never tested at this scale"),
        ("byol", "orth_lars", 143, 5_000, 6, "never tested at this scale"),
    ],
)
def test_a_rate_of_known_length_is_taken_with_its_source(method, optim, steps, images, lr, tested):
    choice = choose_rate(method, optim, "after", steps, images)
    assert choice.value == lr
    assert choice.tested.startswith(tested)


PUBLISHED = [
    # method, optimizer, epochs, batch, rate at the end of the warm-up, as the authors' own code computes
    # it: facebookresearch/barlowtwins, main.py: adjust_learning_rate
    ("barlow_twins", "lars", 1000, 2048, 1.6),
    # open-mmlab/mmselfsup, barlowtwins_resnet50_8xb256-coslr-300e_in1k.py: lr=1.6
    ("barlow_twins", "lars", 300, 2048, 1.6),
    # arXiv 2002.05709, section 2.2: "learning rate of 4.8 (= 0.3 x BatchSize/256)"; 1,000 epochs the
    # same (google-research/simclr#56)
    ("simclr", "lars", 100, 4096, 4.8),
    ("simclr", "lars", 1000, 4096, 4.8),
    # facebookresearch/vicreg, README: --base-lr times batch / 256; 100 epochs of 2,048 by its author in #13
    ("vicreg", "lars", 100, 512, 0.6),
    ("vicreg", "lars", 100, 2048, 2.4),
    ("vicreg", "lars", 1000, 2048, 1.6),
    # google-deepmind/deepmind-research, byol/configs/byol.py: _LR_PRESETS; schedules.py: times batch / 256
    ("byol", "lars", 40, 4096, 7.2),
    ("byol", "lars", 100, 4096, 7.2),
    ("byol", "lars", 300, 4096, 4.8),
    ("byol", "lars", 1000, 4096, 3.2),
    # facebookresearch/simsiam, main_simsiam.py: init_lr; table 4 of arXiv 2011.10566 for longer ones
    ("simsiam", "sgd", 100, 512, 0.1),
    ("simsiam", "sgd", 100, 256, 0.05),
    ("simsiam", "sgd", 800, 256, 0.05),
    # facebookresearch/moco, README: --lr 0.03 --batch-size 256
    ("moco_v2", "sgd", 200, 256, 0.03),
    ("moco_v2", "sgd", 800, 256, 0.03),
    # facebookresearch/dino, main_dino.py: lr x batch / 256; 8 or 16 GPUs with 64 images each
    ("dino", "adamw", 100, 512, 0.001),
    ("dino", "adamw", 300, 1024, 0.002),
    ("dino", "sgd", 100, 512, 0.06),
    # rbalestr-lab/lejepa, scripts/launch_views_ablation.md and MINIMAL.md, on Imagenette: lr is absolute
    ("lejepa", "adamw", 100, 512, 0.0005),
    ("lejepa", "adamw", 800, 256, 0.002),
]  # fmt: skip
IMAGES = {("lejepa", 800): 9_469}
"""Method and epochs to the number of images, where it is not that of ImageNet."""


def steps_of(method, epochs, batch):
    return epochs * (IMAGES.get((method, epochs), 1_281_167) // batch)


@pytest.mark.parametrize(("method", "optim", "epochs", "batch", "absolute"), PUBLISHED)
def test_every_published_recipe_has_its_own_rate(method, optim, epochs, batch, absolute):
    images = IMAGES.get((method, epochs), 1_281_167)
    choice = choose_rate(method, optim, "after", steps_of(method, epochs, batch), images)
    assert choice.value * batch / 256 == pytest.approx(absolute)
    assert choice.tested.startswith("published: ")


def test_every_published_rate_is_of_a_recipe():
    recipes = {(method, optim, steps_of(method, e, b)) for method, optim, e, b, _ in PUBLISHED}
    for rate in RATES:
        if rate.kind == "published":
            for steps in rate.steps:
                assert (rate.method, rate.optim, steps) in recipes


def test_between_two_lengths_it_lies_on_a_line_of_logarithms():
    ends = {702: 2.0, 187_500: 0.2}  # Barlow Twins, LARS
    middle = round(math.sqrt(702 * 187_500))
    choice = choose_rate("barlow_twins", "lars", "after", middle, 10_000)
    assert choice.value == pytest.approx(math.sqrt(ends[702] * ends[187_500]), rel=0.02)
    assert choice.tested == f"never tested at this scale ({middle:,} steps, 10,000 images)"
    for part in ("2 for 702 steps", "0.2 for 187,500", "barlowtwins"):
        assert part in choice.reason


@pytest.mark.parametrize("optim", sorted(OPTIMIZERS))
@pytest.mark.parametrize("method", METHOD_OPTIONS)
def test_every_method_and_optimizer_has_a_rate_that_never_rises_with_length(method, optim):
    for order in ORDERS:
        if optim == "muon" and order in ("after", "both"):
            continue
        found = [
            choose_rate(method, optim, order, round(steps), 10_000).value
            for steps in (1, 30, 76, 300, 702, 2e3, 1e4, 1e5, 2e5, 7e5, 3e6)
        ]
        assert all(lr > 0 for lr in found)
        if (method, optim) not in (
            ("simsiam", "sgd"),
            ("moco_v2", "sgd"),
            ("dino", "sgd"),
        ):  # other losses, other scales
            assert found == sorted(found, reverse=True), found


def test_a_plain_optimizer_without_momentum_steps_ten_times_as_far():
    usual = choose_rate("barlow_twins", "sgd", "after", 300, 10_000)
    none = choose_rate("barlow_twins", "sgd", "none", 300, 10_000)
    assert none.value == pytest.approx(10 * usual.value)
    assert "never tested" in none.tested


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("steps", [50, 300, 5_000, 300_000])
@pytest.mark.parametrize("kind", ["", "orth_"])
def test_the_two_adams_have_one_rate_whatever_their_first_beta(kind, steps, order):
    """Their momentum is a mean of gradients: without it steps are as long (arXiv 1412.6980, algorithm 1)."""
    found = {
        choose_rate("barlow_twins", f"{kind}{optim}", each, steps, 10_000).value
        for optim in ("adam", "adamw")
        for each in ("after", order)
    }
    assert len(found) == 1


@pytest.mark.parametrize(
    ("optim", "settings", "order"),
    [
        ("orth_lars", {}, "after"),
        ("orth_lars", {"momentum": 0.9}, "after"),
        ("orth_lars", {"orth_momentum": 0.95}, "before"),  # alone it replaces the one after
        ("orth_lars", {"orth_momentum": 0.95, "momentum": 0.9}, "both"),
        ("orth_sgd", {"momentum": 0.0}, "none"),
        ("orth_adamw", {"beta1": 0.0}, "none"),
        ("orth_adamw", {"beta1": 0.0, "orth_momentum": 0.9}, "before"),
        ("orth_adam", {}, "after"),
        ("muon", {}, "before"),
        ("muon", {"momentum": 0.0}, "none"),
    ],
)
def test_the_order_of_momentum_follows_from_the_settings(optim, settings, order):
    assert momentum_order(optim, settings) == order
