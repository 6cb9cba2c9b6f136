"""Options of `supervised`, resolved: view, stem, outputs and optimizer, each worked out once."""

from dataclasses import dataclass, replace

from torch.optim import Optimizer

from sslortho.augment import SUPERVISED_VIEWS, ViewSpec
from sslortho.augment.views import CIFAR10_MEAN, CIFAR10_STD, IMAGENET_MEAN, IMAGENET_STD
from sslortho.data import ImageSet
from sslortho.data.labelled import LabelledData
from sslortho.generators import kept_generators
from sslortho.methods import Classification
from sslortho.models import BackboneInfo, feature_dim, initial_classifier
from sslortho.models.backbones import BackboneSettings, Stem, check_backbone, needs_any_size
from sslortho.models.own_networks import GivenBackbone
from sslortho.optim import param_groups
from sslortho.optim.layer_rates import split_by_factor
from sslortho.optim.schedules import cosine_schedule, multi_step_schedule
from sslortho.optim.settings import OptimizerSettings, settle_optimizer
from sslortho.recipes.backbone import SMALL_CROP, resolve_stem
from sslortho.recipes.evaluation import native_size
from sslortho.recipes.given import NOTHING, Given, check_given
from sslortho.recipes.initial_weights import (
    InitialWeights,
    Start,
    layer_factors,
    read_initial_weights,
)
from sslortho.recipes.supervised.options import SupervisedOptions
from sslortho.train.step import Schedule

GAMMA = 0.1
"""Factor of the multi-step schedule where none is given; torch's default."""


def resolve_supervised_optimizer(options: SupervisedOptions) -> OptimizerSettings:
    """The optimizer that the options name, which is known before the data are.

    Raises ValueError for an option that the optimizer does not take.
    """
    return settle_optimizer(lr=options.lr, **options.optimizer_settings)


def check_beginning(options: SupervisedOptions, given: Given = NOTHING) -> None:
    """Look at backbone, stem and initial weights before the images are read.

    Raises ValueError for what is unknown, missing or unreadable, a stem without effect, and weights that do
    not fit a backbone by name.
    """
    check_given(options, given)
    named = given.backbone is None
    if named:
        check_backbone(options.backbone)
    weights = read_initial_weights(options, options.backbone)
    if weights is None:
        resolve_stem(options.backbone, options.stem, 0)
    elif named:
        stem = weights.choose_stem(options.backbone, options.stem)
        with kept_generators():
            weights.load_into(BackboneSettings(name=options.backbone, stem=stem).create())


@dataclass(frozen=True)
class SupervisedRecipe:
    """A supervised training that is fully decided, with nothing built yet."""

    options: SupervisedOptions
    optimizer: OptimizerSettings
    view_name: str
    view: ViewSpec
    """Training view."""
    stem: Stem
    """First layers of the backbone."""
    info: BackboneInfo
    """Name and stem of the backbone, size and normalisation of its images."""
    outputs: int
    """Outputs of the classifier."""
    given: Given = NOTHING
    """Objects that a Python caller has handed over."""
    weights: InitialWeights | None = None
    """Weights that the backbone begins with; None: those that were drawn or handed over."""

    @property
    def start(self) -> Start:
        """The backbone as training begins."""
        info, seed = self.info, self.options.seed
        if self.given.backbone is not None:
            return Start(GivenBackbone(self.given.backbone, info.crop_size, seed), self.weights)
        # torchvision's own default, which the paper's networks have
        fresh = BackboneSettings(
            name=info.backbone,
            stem=self.stem,
            zero_init_residual=False,
            any_size=needs_any_size(info.backbone, info.crop_size),
            seed=seed,
        )
        return Start(fresh, self.weights)

    def create_task(self) -> Classification:
        """Model and loss, on the CPU. Their initial weights depend on the seed alone.

        Raises ValueError for a backbone that does not take views of that size.
        """
        info, options = self.info, self.options
        backbone = self.start.create()
        dim = feature_dim(backbone, info.crop_size)
        classifier = initial_classifier(info.backbone, dim, self.outputs)
        return Classification(backbone, classifier, label_smoothing=options.label_smoothing)

    def create_optimizer(self, task: Classification) -> Optimizer:
        """The optimizer over all parameters of a task, at one rate."""
        groups = param_groups(
            task,
            self.optimizer.orth_layers,
            attention=self.optimizer.attention,
            lr=self.optimizer.lr,
            weight_decay=self.optimizer.weight_decay,
        )
        for group in groups:
            if group["name"] == "biases and norms":
                group["weight_decay"] = self.options.weight_decay_biases
        if self.options.layer_decay is not None:
            factors = layer_factors(task, self.options.layer_decay)
            groups = split_by_factor(groups, factors, self.optimizer.lr)
        return self.optimizer.create(groups)


def create_schedule(options: SupervisedOptions, batches: int) -> Schedule:
    """Step to multiplier of the rate, for epochs of this many batches."""
    steps, warmup = batches // options.accumulation_steps, options.warmup_epochs
    if options.schedule == "cosine":
        return cosine_schedule(options.epochs, steps, warmup, final=0.0)
    gamma = GAMMA if options.gamma is None else options.gamma
    return multi_step_schedule(options.milestones or (), steps, warmup, gamma)


def resolve(
    options: SupervisedOptions,
    data: LabelledData,
    optimizer: OptimizerSettings,
    given: Given = NOTHING,
) -> SupervisedRecipe:
    """Decide what the options leave open.

    Args:
        options: of the run.
        data: images to train and to test on; size of the images and number of classes count.
        optimizer: result of `resolve_supervised_optimizer`.
        given: objects that a Python caller hands over.

    Raises ValueError for a stem without effect, and for fewer outputs than classes.
    """
    check_given(options, given)
    crop_size = options.crop_size or native_size(data.train)
    view_name = _choose_view(options, data.train, crop_size)
    view = _create_view(view_name, crop_size)
    weights = read_initial_weights(options, options.backbone)
    if weights is not None and weights.normalisation:
        mean, std = weights.normalisation
        view = replace(view, mean=mean, std=std)
    if weights is None or given.backbone is not None:
        stem = resolve_stem(options.backbone, options.stem, crop_size)
    else:
        stem = weights.choose_stem(options.backbone, options.stem)
    info = BackboneInfo(
        backbone=options.backbone,
        stem=stem,
        crop_size=crop_size,
        mean=view.mean,
        std=view.std,
    )
    return SupervisedRecipe(
        options=options,
        optimizer=optimizer,
        view_name=view_name,
        view=view,
        stem=stem,
        info=info,
        outputs=_count_outputs(options, len(data.classes)),
        given=given,
        weights=weights,
    )


def _choose_view(options: SupervisedOptions, data: ImageSet, crop_size: int) -> str:
    if options.views != "auto":
        return options.views
    if options.data == "digits":
        return "supervised_digits"
    whole = data.holds_small_images and data.first_size == (crop_size, crop_size)
    return "supervised_small" if whole else "supervised"


def _create_view(name: str, crop_size: int) -> ViewSpec:
    """The training view, with the normalisation that goes with its size."""
    small = crop_size <= SMALL_CROP
    mean, std = (CIFAR10_MEAN, CIFAR10_STD) if small else (IMAGENET_MEAN, IMAGENET_STD)
    return SUPERVISED_VIEWS[name](crop_size, mean, std)[0]


def _count_outputs(options: SupervisedOptions, classes: int) -> int:
    outputs = options.head_classes or classes
    if outputs < classes:
        raise ValueError(
            f"head_classes={outputs} is less than the {classes} classes of the data; raise it, or "
            "leave it out"
        )
    return outputs
