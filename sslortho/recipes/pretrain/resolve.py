"""Options of `pretrain`, resolved: views, stem, rates and optimizer, each worked out once."""

from dataclasses import dataclass

from sslortho.augment.published_views import create_views
from sslortho.augment.views import EvaluationSpec, ViewSpec, evaluation_spec
from sslortho.methods.registry import load_method
from sslortho.methods.task import Method
from sslortho.models.backbones import BackboneSettings
from sslortho.optim.settings import OptimizerSettings, settle_optimizer
from sslortho.recipes.backbone import SMALL_CROP, resolve_stem
from sslortho.recipes.pretrain.options import PretrainOptions


@dataclass(frozen=True)
class PretrainRecipe:
    """A pretraining that is fully decided, with nothing built yet."""

    options: PretrainOptions
    backbone: BackboneSettings
    method: type[Method]
    views: tuple[ViewSpec, ...]
    """Views of each image, in the order of a batch."""
    evaluation_views: tuple[EvaluationSpec, EvaluationSpec]
    """Evaluation view of photographs, and of small images."""
    optimizer: OptimizerSettings
    lr_biases: float
    """Learning rate of biases and norms, absolute."""

    @property
    def view_sizes(self) -> set[int]:
        """Sides of the views in pixels."""
        return {view.crop_size for view in self.views}


def resolve(options: PretrainOptions) -> PretrainRecipe:
    """Decide what the options leave open.

    Raises ValueError for a stem without effect, views that the method does not take, and an option
    that the optimizer does not take.
    """
    stem = resolve_stem(options.backbone, options.stem, options.crop_size)
    scale = options.batch_size / 256
    method = load_method(options.method)
    name = options.views
    if name == "auto":
        small = "_digits" if options.data == "digits" else "_small"
        name = options.method + (small if options.crop_size <= SMALL_CROP else "")
    views = create_views(name, options.crop_size)
    if not method.takes(len(views)):
        raise ValueError(
            f"views={options.views!r} are {len(views)} of each image, which method={options.method!r} "
            "does not take; leave it out for the method's own"
        )
    return PretrainRecipe(
        options=options,
        backbone=BackboneSettings(
            name=options.backbone,
            stem=stem,
            any_size=len({view.crop_size for view in views}) > 1,
            seed=options.seed,
        ),
        method=method,
        views=views,
        evaluation_views=(evaluation_spec(views[0], False), evaluation_spec(views[0], True)),
        optimizer=settle_optimizer(
            lr=options.lr * scale, default_layers="conv", **options.optimizer_settings
        ),
        lr_biases=options.lr_biases * scale,
    )
