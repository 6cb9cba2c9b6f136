"""Options of `pretrain`, resolved: views, stem, rates and optimizer, each worked out once."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from sslortho.augment.own_views import OwnView
from sslortho.augment.published_views import create_views
from sslortho.augment.views import EvaluationSpec, ViewSpec, evaluation_spec
from sslortho.methods.registry import load_method
from sslortho.methods.task import Method, create_method
from sslortho.models.backbones import (
    BackboneSettings,
    check_backbone,
    has_depthwise_of,
    is_small,
    needs_any_size,
    required_size_of,
)
from sslortho.models.network_facts import count_multiplications, has_depthwise, required_size
from sslortho.models.own_networks import GivenBackbone
from sslortho.optim.registry import check_options
from sslortho.optim.settings import OptimizerSettings, settle_optimizer
from sslortho.options import GIVEN
from sslortho.recipes.backbone import SMALL_CROP, resolve_stem
from sslortho.recipes.fitted import Choice, fill, settled
from sslortho.recipes.given import NOTHING, Given, check_given
from sslortho.recipes.initial_weights import InitialWeights, Start, read_initial_weights
from sslortho.recipes.pretrain.fitting import (
    DIGITS_IMAGES,
    Machine,
    fit_crop,
    fit_options,
    without_images,
)
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.train.launch import precision_of_caller


@dataclass(frozen=True)
class PretrainRecipe:
    """A pretraining that is fully decided, with nothing built yet."""

    options: PretrainOptions
    """Options with a value for each that was left out."""
    chosen: Mapping[str, Choice]
    """Values that were chosen for options that were left out, by name."""
    backbone: BackboneSettings | GivenBackbone
    method: type[Method]
    views: tuple[ViewSpec, ...] | tuple[OwnView, ...]
    """Views of each image, in the order of a batch."""
    evaluation_views: tuple[EvaluationSpec, EvaluationSpec]
    """Evaluation view of photographs, and of small images."""
    optimizer: OptimizerSettings
    lr_biases: float | None
    """Learning rate of biases and norms, absolute; None of Muon, whose AdamW has its own."""
    given: Given = NOTHING
    """Objects that a Python caller has handed over."""
    weights: InitialWeights | None = None
    """Weights that the backbone begins with; None: those that were drawn or handed over."""

    @property
    def start(self) -> Start:
        """The backbone as training begins."""
        return Start(self.backbone, self.weights)

    @property
    def pair(self) -> tuple[ViewSpec, ...] | tuple[OwnView, ...]:
        """Two views of each image, to be compared: the first two, or the only one drawn twice."""
        return (self.views * 2)[:2]

    @property
    def view_sizes(self) -> set[int]:
        """Sides of the views in pixels."""
        return {view.crop_size for view in self.views}

    def create_task(self) -> Method:
        """Model and loss, on the CPU. Their initial weights depend on the seed and what is given alone.

        Raises ValueError as `create_method`.
        """
        projector = self.given.projector
        return create_method(
            self.method, self.start, self.view_sizes, self.options, projector=projector
        )


def find_machine() -> Machine:
    """Facts about this machine that fitted options depend on."""
    gpu = torch.cuda.is_available()
    if gpu:
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:  # older versions of torch do not say
        bf16 = getattr(torch.cpu, "get_capabilities", dict)().get("avx512_bf16", False)
    theirs = precision_of_caller()
    return Machine(
        gpu=gpu,
        bf16=bf16 and theirs in (None, "bf16"),
        launcher_precision=theirs or os.environ.get("ACCELERATE_MIXED_PRECISION", "no"),
    )


def resolve(
    options: PretrainOptions,
    given: Given = NOTHING,
    images: int | None = None,
    machine: Machine | None = None,
    side: int | None = None,
) -> PretrainRecipe:
    """Decide what the options leave open.

    Args:
        options: of the run.
        given: objects of a Python caller.
        images: number of training images. None, before they are read: as many as the digits have, so that
            mistakes are found early.
        machine: that trains. Default: a CPU.
        side: largest side of the first image in pixels; None before they are read.

    Raises ValueError for an unknown backbone, a stem without effect, views that the method does not take, an
    option that the optimizer does not take, and an object that is missing or does not fit.
    """
    check_given(options, given)
    check_options(options.optim, ())  # the name, before a rate is looked up for it
    if given.backbone is None:
        check_backbone(options.backbone)
    method = given.method or load_method(options.method)
    weights = read_initial_weights(options, options.backbone)
    crop = _choose_crop(options, given, weights, machine, side)
    views = _choose_views(fill(options, crop), given, method, weights)
    if crop and len({view.crop_size for view in views}) == 1:
        crop = _fit_network(options, given, crop)
        views = _choose_views(fill(options, crop), given, method, weights)
    options = fill(options, crop)
    if not method.takes(len(views)):
        raise ValueError(
            f"views={options.views!r} are {len(views)} of each image, which method={options.method!r} "
            "does not take; leave it out for the method's own"
        )
    backbone = _choose_backbone(options, given, weights, len({view.crop_size for view in views}))
    on_cpu = machine is None or not machine.gpu
    fitted = images is not None and options.epochs is None and options.data != "digits"
    work = _count_work(backbone, views) if fitted and on_cpu else None  # takes seconds
    asks = machine is not None and on_cpu and machine.bf16
    asks = asks and options.mixed_precision is None and options.data != "digits"
    depthwise = asks and _has_depthwise(options, given)
    count = DIGITS_IMAGES if images is None else images
    length = fit_options(options, count, machine, work, depthwise)
    if images is None and options.data != "digits":
        length = without_images(length)
    options = fill(options, length)
    scale = settled(options.batch_size) / 256
    recipe = PretrainRecipe(
        options=options,
        chosen={**crop, **length},
        backbone=backbone,
        method=method,
        views=views,
        evaluation_views=(evaluation_spec(views[0], False), evaluation_spec(views[0], True)),
        optimizer=settle_optimizer(lr=settled(options.lr) * scale, **options.optimizer_settings),
        lr_biases=None if options.lr_biases is None else options.lr_biases * scale,
        given=given,
        weights=weights,
    )
    if weights is not None:
        recipe.start.create()  # weights that do not fit are an error before the data are read
    return recipe


def _choose_crop(
    options: PretrainOptions,
    given: Given,
    weights: InitialWeights | None,
    machine: Machine | None,
    side: int | None,
) -> dict[str, Choice]:
    """Side of the views by the name of its option; nothing if it was given."""
    if options.crop_size is not None:
        return {}
    small = False
    if given.backbone is None:
        stem: str = options.stem
        if weights is not None and stem == "auto":
            stem = weights.choose_stem(options.backbone, stem)
        small = is_small(options.backbone) or stem in ("small", "solo_learn")
    return {"crop_size": fit_crop(options, side, machine, small)}


def _fit_network(
    options: PretrainOptions, given: Given, crop: dict[str, Choice]
) -> dict[str, Choice]:
    """The same, or the only size that the network takes."""
    module = given.backbone
    size = required_size_of(options.backbone) if module is None else required_size(module)
    if size in (None, crop["crop_size"].value):
        return crop
    name = options.backbone if module is None else type(module).__name__
    return {"crop_size": Choice(size, f"the only size that {name} takes", "")}


def _has_depthwise(options: PretrainOptions, given: Given) -> bool:
    if given.backbone is not None:
        return has_depthwise(given.backbone)
    return has_depthwise_of(options.backbone)


def _count_work(
    backbone: BackboneSettings | GivenBackbone, views: tuple[ViewSpec, ...] | tuple[OwnView, ...]
) -> float:
    """Multiplications of the backbone for all views of an image."""
    network = backbone.create()
    counts = Counter(view.crop_size for view in views)
    return sum(count * count_multiplications(network, size) for size, count in counts.items())


def _choose_views(
    options: PretrainOptions, given: Given, method: type[Method], weights: InitialWeights | None
) -> tuple[ViewSpec, ...] | tuple[OwnView, ...]:
    if given.views is not None:
        if given.views[0].crop_size != options.crop_size:
            raise ValueError(
                f"crop_size={options.crop_size} is not that of the first of views "
                f"({given.views[0].crop_size} pixels); leave it out"
            )
        return given.views
    name = options.views
    if name == "auto":
        small = "_digits" if options.data == "digits" else "_small"
        published = method.default_views if options.method == GIVEN else options.method
        name = published + (small if settled(options.crop_size) <= SMALL_CROP else "")
    views = create_views(name, settled(options.crop_size))
    if weights is None or weights.normalisation is None:
        return views
    mean, std = weights.normalisation
    return tuple(replace(view, mean=mean, std=std) for view in views)


def _choose_backbone(
    options: PretrainOptions, given: Given, weights: InitialWeights | None, sizes: int
) -> BackboneSettings | GivenBackbone:
    """The backbone before its initial weights, for views of that many sizes."""
    crop_size = settled(options.crop_size)
    if weights is None or given.backbone is not None:
        stem = resolve_stem(options.backbone, options.stem, crop_size)
    else:
        stem = weights.choose_stem(options.backbone, options.stem)
    if given.backbone is not None:
        return GivenBackbone(given.backbone, crop_size, options.seed)
    any_size = sizes > 1 or needs_any_size(options.backbone, crop_size)
    return BackboneSettings(name=options.backbone, stem=stem, any_size=any_size, seed=options.seed)
