"""Values of options of `pretrain` that are left out: fitted to data, method, optimizer and length.

The digits have values of their own, which never reach other images. Imports no torch.
"""

from dataclasses import dataclass, replace
from typing import Any

from sslortho.recipes.fitted import STEPS_AN_EPOCH, Choice, fit_batch
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.pretrain.rates import Order, choose_rate, momentum_order

USUAL_BATCH = 128
"""Samples of a step where there are as many images."""

DIGITS: dict[str, Any] = {
    "batch_size": USUAL_BATCH,
    "epochs": 13,
    "warmup_epochs": 1,
    "evaluate_every": 4,
    "mixed_precision": "no",
}
"""Values for the embedded digits: two minutes on two CPU cores."""

DIGITS_RATE, HAVE_DIGITS_RATE = 6.0, ("lars", "orth_lars")
"""Rate of the weights for the digits, and the optimizers that it is for, with momentum at the end."""

DIGITS_IMAGES = 1437
"""Number of the digits' training images."""

USUAL_CROP, CROP_MULTIPLE = 32, 8
"""Side of views in pixels: as CIFAR's images; and what the side of smaller images is rounded up to, of which
three halvings leave a pixel."""

PHOTO_CROP, GPU_PHOTO_CROP = 96, 224
"""Side of views of photographs, for networks that are not made for small images. On a CPU: it costs a ResNet-18
less than 32 with the first layer for small images (docs/choosing.md). On a GPU: as papers."""

GPU_SMALL_CROP = 64
"""Side of views of images of 64 to 95 pixels on a GPU, for networks that are not made for 32 pixels."""

MOST_WARMUP = 10
"""Longest warm-up in epochs: facebookresearch/barlowtwins, SimCLR, VICReg and BYOL, for 100 epochs or more."""

EVALUATIONS = 10
"""Number of evaluations on the way, as configs/imagenet_*.yaml for 100 epochs."""

SEEN_PER_EVALUATION = 2_800
"""Images that a training sees for each evaluation at the least: the figures without labels (64 images) then
cost less than a hundredth of it (docs/verdicts/README.md)."""

SEEN_ON_CPU = 180_000
"""Most images that a run on a CPU sees: as configs/figure7_small.yaml, 17 minutes of a core (docs/paper.md)."""

WORK_ON_CPU = 4e13
"""Most multiplications of the forward passes of a run on a CPU: about 45 minutes of two cores for a ResNet-18
and views of 96 pixels (docs/choosing.md)."""

SEEN_ON_GPU = 10_000_000
"""Images that a run on a GPU sees: those of configs/cifar10.yaml, 200 epochs of 50,000."""

MOST_EPOCHS, GPU_EPOCHS = 200, 100
"""Most epochs of any run (configs/cifar10.yaml), and fewest on a GPU (configs/imagenet_*.yaml)."""


@dataclass(frozen=True)
class Machine:
    """Facts about the machine that count for precision and length."""

    gpu: bool = False
    bf16: bool = False
    """Whether it computes in bf16 by itself: the GPU, or the CPU where there is none."""
    launcher_precision: str = "no"
    """Precision that the launcher was asked for."""


def fit_precision(options: PretrainOptions, machine: Machine, slow: str = "") -> Choice:
    """Precision of the network.

    Args:
        options: of the run.
        machine: that trains.
        slow: reason why bf16 is slower than float32 on a CPU for this run; empty if it is faster.
    """
    if options.data == "digits":
        return Choice(DIGITS["mixed_precision"], "the digits' own", "")
    if machine.launcher_precision != "no":
        return Choice(machine.launcher_precision, "as the launcher was asked for", "")
    if machine.gpu and machine.bf16:
        reason = (
            "a GPU that computes in bf16: half the memory of float32, and no scaling of the loss"
        )
        return Choice("bf16", reason, "never tested on a GPU by this project")
    if machine.gpu:
        return Choice("no", "the GPU has no bf16; fp16 is there for who asks", "")
    if machine.bf16 and slow:
        return Choice("no", slow, "")
    if machine.bf16:
        return Choice("bf16", "a CPU that computes in bf16, faster than in float32", "")
    return Choice("no", "float32 on a CPU", "")


def fit_crop(
    options: PretrainOptions,
    side: int | None,
    machine: Machine | None = None,
    small_network: bool = True,
) -> Choice:
    """Side of the views: the usual one, of small images their own, and of photographs a larger one.

    Args:
        options: of the run.
        side: largest side of the first image in pixels; None: not known yet, or of no account.
        machine: that trains. Default: a CPU.
        small_network: whether the backbone is made for images of 32 pixels.
    """
    if options.data == "digits":
        return Choice(USUAL_CROP, "the digits' own", "")
    if side is not None and side >= PHOTO_CROP and not small_network:
        if machine and machine.gpu and side >= GPU_PHOTO_CROP:
            return Choice(GPU_PHOTO_CROP, "photographs on a GPU, as in papers", "")
        return Choice(PHOTO_CROP, f"images of {side} pixels, for a first try", "")
    if (
        side is not None
        and side >= GPU_SMALL_CROP
        and not small_network
        and machine
        and machine.gpu
    ):
        return Choice(GPU_SMALL_CROP, f"images of {side} pixels, as those of Tiny ImageNet", "")
    if side is not None and side >= GPU_SMALL_CROP:
        reason = f"a quarter of the work that --crop_size 64 is; the images have {side} pixels"
        return Choice(USUAL_CROP, reason, "")
    if side is None or side > USUAL_CROP - CROP_MULTIPLE:
        return Choice(USUAL_CROP, "as CIFAR's images", "")
    own = -(-side // CROP_MULTIPLE) * CROP_MULTIPLE
    return Choice(own, f"images of {side} pixels, to the next multiple of {CROP_MULTIPLE}", "")


def fit_options(
    options: PretrainOptions,
    images: int,
    machine: Machine | None = None,
    work: float | None = None,
    depthwise: bool = False,
) -> dict[str, Choice]:
    """Values for all options that are left out and fitted, by name, but for the side of views.

    Args:
        options: of the run; what they give is kept.
        images: number of training images.
        machine: that trains. Default: a CPU.
        work: multiplications of the forward passes of all views of an image; None: not known yet, or of no
            account.
        depthwise: whether the backbone has depthwise convolutions.
    """
    machine = machine or Machine()
    fitted = {
        "mixed_precision": fit_precision(options, machine, _explain_slow_bf16(options, depthwise)),
        **(
            _fit_digits(options, images)
            if options.data == "digits"
            else _fit_length(options, images, machine.gpu, work)
        ),
    }
    if options.optim != "muon":  # whose AdamW has a rate of its own
        fitted["lr_biases"] = _fit_biases(options, images, fitted)
    if (layers := _fit_layers(options)) is not None:
        fitted["orth_layers"] = layers
    return {name: choice for name, choice in fitted.items() if getattr(options, name) is None}


def without_images(fitted: dict[str, Choice]) -> dict[str, Choice]:
    """The choices before images are read: of the largest batch and most epochs, whose mistakes are sure."""
    largest = {"batch_size": USUAL_BATCH, "epochs": MOST_EPOCHS}
    return {
        name: replace(choice, value=largest.get(name, choice.value))
        for name, choice in fitted.items()
    }


def _fit_layers(options: PretrainOptions) -> Choice | None:
    """Layers that are orthonormalised; None if the optimizer has no such option."""
    if options.optim == "orth_lars":
        return Choice("conv", "as the paper for Barlow Twins", "")
    if options.optim.startswith("orth_") or options.optim.endswith("norm_sgd"):
        return Choice("all", "as in docs/order", "")
    return None


def _explain_slow_bf16(options: PretrainOptions, depthwise: bool) -> str:
    """Reason why bf16 is slower than float32 on a CPU; empty if it is faster.

    The gradient of a dense layer has at most as many directions as the batch has views. bf16 rounds it to a
    matrix of full rank, whose eigenproblem is as large as the layer (docs/orthonormalisation.md).
    """
    if depthwise:
        return "most networks with depthwise convolutions are slower in bf16 on a CPU"
    layers = _fit_layers(options)
    chosen = options.orth_layers or (layers.value if layers else None)
    if options.optim == "muon" or (options.optim.startswith("orth_") and chosen == "all"):
        return "on a CPU bf16 makes it slow to orthonormalise dense layers"
    return ""


def _fit_biases(options: PretrainOptions, images: int, fitted: dict[str, Choice]) -> Choice:
    """Rate of biases and norms: for Adam, which divides by the gradient's size, as of plain Adam's weights.

    Args:
        options: of the run.
        images: number of training images.
        fitted: choices for batch and epochs where the options have none.
    """
    if "adam" not in options.optim:
        return Choice(options.usual_lr_biases, "the method's own, whatever the length", "")
    plain = options.optim.removeprefix("orth_")
    if options.lr is not None and plain == options.optim:
        return Choice(options.lr, "as lr", "")
    steps = _count_steps(options, images, fitted)
    choice = choose_rate(options.method, plain, "after", steps, images)
    return (
        choice if plain == options.optim else replace(choice, reason=f"of {plain}, {choice.reason}")
    )


def _fit_digits(options: PretrainOptions, images: int) -> dict[str, Choice]:
    own = {name: Choice(value, "the digits' own", "") for name, value in DIGITS.items()}
    own["batch_size"] = fit_batch(USUAL_BATCH, images)
    if options.optim in HAVE_DIGITS_RATE and _order_of(options) == "after":
        own["lr"] = Choice(DIGITS_RATE, "the digits' own", "")
    else:
        own["lr"] = _fit_rate(options, images, own)
    return own


def _fit_rate(options: PretrainOptions, images: int, fitted: dict[str, Choice]) -> Choice:
    """Rate of the weights, by method, optimizer, order of momentum and number of steps."""
    steps = _count_steps(options, images, fitted)
    return choose_rate(options.method, options.optim, _order_of(options), steps, images)


def _order_of(options: PretrainOptions) -> Order:
    """Where momentum stands in a step, by the options of the run."""
    given = {
        "momentum": options.momentum,
        "orth_momentum": options.orth_momentum,
        "beta1": options.betas[0] if options.betas else None,
    }
    return momentum_order(options.optim, given)


def _count_steps(options: PretrainOptions, images: int, fitted: dict[str, Choice]) -> int:
    """Optimizer steps of the run, with fitted batch and epochs where the options have none."""
    epochs = fitted["epochs"].value if options.epochs is None else options.epochs
    batch_size = fitted["batch_size"].value if options.batch_size is None else options.batch_size
    return max(1, epochs * (images // batch_size))


def _fit_length(
    options: PretrainOptions, images: int, gpu: bool, work: float | None
) -> dict[str, Choice]:
    """Batch, epochs, warm-up, evaluations and rate: each follows from those before it."""
    batch = fit_batch(USUAL_BATCH, images, STEPS_AN_EPOCH)
    length = _fit_epochs(images, gpu, work)
    epochs = length.value if options.epochs is None else options.epochs
    chosen = {"batch_size": batch, "epochs": length}
    batch_size = batch.value if options.batch_size is None else options.batch_size
    seen = _count_steps(options, images, chosen) * batch_size
    return {
        **chosen,
        "warmup_epochs": Choice(
            min(float(MOST_WARMUP), epochs / 10),
            f"a tenth of the run, at most {MOST_WARMUP} epochs",
            "",
        ),
        "evaluate_every": _fit_evaluations(epochs, seen),
        "lr": _fit_rate(options, images, chosen),
    }


def _fit_evaluations(epochs: int, seen: int) -> Choice:
    """Epochs between evaluations; seen: images that the whole training sees."""
    usual = max(1, round(epochs / EVALUATIONS))
    on_the_way = max(1, seen // SEEN_PER_EVALUATION - 1)  # one more before the first step
    every = -(-epochs // on_the_way)
    if every > usual:
        return Choice(every, f"at most one for {SEEN_PER_EVALUATION:,} images seen", "")
    reason = f"about {EVALUATIONS} evaluations on the way" if usual > 1 else "after each epoch"
    return Choice(usual, reason, "")


def _fit_epochs(images: int, gpu: bool, work: float | None) -> Choice:
    seen, least, device = SEEN_ON_CPU, 1, "a CPU, a first try"
    if gpu:
        seen, least, device = SEEN_ON_GPU, GPU_EPOCHS, "a GPU"
    elif work and WORK_ON_CPU / work < SEEN_ON_CPU:  # 0: torch counts none of its operations
        seen = float(f"{WORK_ON_CPU / work:.2g}")
        device = f"a CPU, a first try with {work / 1e9:.2g} billion multiplications for the views of each"
    epochs = min(MOST_EPOCHS, max(least, round(seen / images)))
    reason = f"about {seen:,.0f} images seen on {device}, from {least} to {MOST_EPOCHS} epochs"
    return Choice(epochs, reason, "")
