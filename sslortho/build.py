"""From a configuration to objects: the only place that knows both."""

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Literal

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from sslortho.augment import VIEWS, EvaluationRenderer, ViewRenderer, ViewSpec
from sslortho.augment.views import evaluation_spec
from sslortho.config import PretrainConfig
from sslortho.data import (
    BetonImages,
    EpochOrder,
    EvaluationLoader,
    EvaluationViewLoader,
    FileSource,
    ImageArray,
    ImageFiles,
    ImageSet,
    PageOrder,
    Source,
    TensorEvaluationLoader,
    TensorLoader,
    TrainLoader,
    ViewLoader,
    balanced_subset,
    load_split,
    require_ffcv,
)
from sslortho.evaluate import FrozenEvaluation
from sslortho.losses import BarlowTwinsLoss
from sslortho.models import Projector, convert_sync_batch_norm, create_backbone, feature_dim
from sslortho.models.backbones import TORCHVISION
from sslortho.optim import OPTIMIZERS, create_optimizer, param_groups
from sslortho.optim.registry import accepted_options
from sslortho.optim.schedules import warmup_cosine
from sslortho.tasks import BarlowTwins, Task
from sslortho.train import FitOptions
from sslortho.train.fit import Schedule
from sslortho.train.launch import create_accelerator, set_threads, share_of_cores

SMALL_CROP = 64
"""Views up to so many pixels count as small: no blur, and stems without early pooling."""

EVALUATION_BATCH = 512


def loader_threads(config: PretrainConfig) -> int:
    """Threads of this rank that decode and augment."""
    return share_of_cores() if config.workers is None else config.workers


def load_training_set(config: PretrainConfig) -> ImageSet:
    """The images to train on, before any are left to other ranks."""
    train = load_split(config.data, config.data_dir, "train", config.loader)
    assert train is not None
    return train if config.subset is None else balanced_subset(train, config.subset, config.seed)


def create_views(config: PretrainConfig) -> tuple[ViewSpec, ViewSpec]:
    """The pair of views that the configuration names."""
    name = config.views
    if name == "auto":
        small = "barlow_twins_digits" if config.data == "digits" else "barlow_twins_small"
        name = small if config.crop_size <= SMALL_CROP else "barlow_twins"
    return VIEWS[name](config.crop_size)


def build_backbone(config: PretrainConfig) -> nn.Module:
    """The backbone with its initial weights, which depend on the seed alone."""
    torch.manual_seed(config.seed)
    stem = config.stem
    if stem != "auto" and config.backbone not in TORCHVISION:
        raise ValueError(
            f"stem={stem!r} has no effect on backbone={config.backbone!r}; it is for "
            f"{', '.join(TORCHVISION)}"
        )
    if stem == "auto":
        stem = "small" if config.crop_size <= SMALL_CROP else "stock"
    return create_backbone(config.backbone, stem)


def build_task(config: PretrainConfig) -> Task:
    """Model and loss, on the CPU."""
    backbone = build_backbone(config)
    dim = feature_dim(backbone, config.crop_size)
    loss = BarlowTwinsLoss(config.lambda_param, gather_distributed=True)
    return BarlowTwins(backbone, Projector(dim, config.projector_widths), loss)


def build_optimizer(config: PretrainConfig, task: nn.Module) -> Optimizer:
    """The optimizer over the task's parameter groups, with rates for this batch size.

    Raises ValueError for an option that the optimizer does not take.
    """
    accepted = accepted_options(config.optim)
    scale = config.batch_size / 256
    momentum = config.momentum
    if momentum is None and "momentum" in accepted:
        momentum = 0.9
    given = {
        "momentum": momentum,
        "trust_coefficient": config.trust_coefficient,
        "polar": config.polar,
        "share": config.share,
    }
    if config.orth_layers is not None and "orth" not in accepted:
        raise ValueError(
            f"orth_layers={config.orth_layers!r} has no effect on optim={config.optim!r}; "
            f"the ones that it has are {', '.join(n for n in OPTIMIZERS if 'orth' in n)}"
        )
    groups = param_groups(
        task,
        config.orth_layers or "conv",
        lr=config.lr * scale,
        lr_biases=config.lr_biases * scale,
        weight_decay=config.weight_decay,
    )
    options = {name: value for name, value in given.items() if value is not None}
    return create_optimizer(config.optim, groups, lr=config.lr * scale, **options)


def build_schedule(config: PretrainConfig, steps_per_epoch: int) -> Schedule:
    """Linear warm-up and cosine, as facebookresearch/barlowtwins."""
    total = config.epochs * steps_per_epoch
    warmup = round(config.warmup_epochs * steps_per_epoch)
    return lambda step: warmup_cosine(step, total, warmup)


def build_train_loader(
    config: PretrainConfig, data: ImageSet, accelerator: Accelerator
) -> TrainLoader:
    """Random views of the training set, this rank's share."""
    if config.batch_size % config.accumulation_steps:
        raise ValueError(
            f"batch_size={config.batch_size} does not divide into accumulation_steps="
            f"{config.accumulation_steps} parts; choose a multiple"
        )
    if config.batch_size > len(data):
        raise ValueError(
            f"batch_size={config.batch_size} is larger than the data ({len(data)} images); "
            "choose a smaller one"
        )
    renderer = ViewRenderer(create_views(config), config.seed, config.channels_last)
    order = _build_order(config, data, accelerator)
    if isinstance(data, ImageArray):
        if config.workers is not None:
            raise ValueError(
                f"workers={config.workers} has no effect on data={config.data!r}, whose images lie in "
                "memory; --threads says how many render them on a CPU"
            )
        return TensorLoader(data, renderer, order, accelerator.device)
    source = _open_source(data, config.cache or "os")
    return ViewLoader(source, renderer, order, accelerator.device, loader_threads(config))


def _build_order(config: PretrainConfig, data: ImageSet, accelerator: Accelerator) -> EpochOrder:
    options = {
        "size": len(data),
        "batch_size": config.batch_size // config.accumulation_steps,
        "seed": config.seed,
        "rank": accelerator.process_index,
        "world_size": accelerator.num_processes,
    }
    if isinstance(data, BetonImages) and config.cache == "process":
        return PageOrder(**options, pages=data.pages)
    return EpochOrder(**options)


@lru_cache(maxsize=4)
def _open_source(data: ImageFiles | BetonImages, cache: Literal["os", "process"]) -> Source:
    # kept, since the training set is read for training and for evaluation
    if isinstance(data, ImageFiles):
        return FileSource(data)
    return require_ffcv().BetonSource(data, cache)


def build_evaluation_loader(
    config: PretrainConfig, data: ImageSet, accelerator: Accelerator
) -> EvaluationLoader:
    """The evaluation view of a data set, this rank's share."""
    in_memory = isinstance(data, ImageArray)
    spec = evaluation_spec(create_views(config), data.images.shape[-1] if in_memory else None)
    renderer = EvaluationRenderer(spec, config.channels_last)
    rank, world_size = accelerator.process_index, accelerator.num_processes
    device = accelerator.device
    if isinstance(data, ImageArray):
        return TensorEvaluationLoader(data, renderer, EVALUATION_BATCH, device, rank, world_size)
    source = _open_source(data, config.cache or "os")
    workers = loader_threads(config)
    return EvaluationViewLoader(
        source, renderer, EVALUATION_BATCH, device, workers, rank, world_size
    )


def build_evaluation(
    config: PretrainConfig, train: ImageSet, test: ImageSet | None, accelerator: Accelerator
) -> FrozenEvaluation:
    """kNN, linear probe and collapse measures on the images trained on and the test images."""
    labelled = test is not None and bool((train.labels >= 0).all())
    return FrozenEvaluation(
        train=build_evaluation_loader(config, train, accelerator),
        test=build_evaluation_loader(config, test, accelerator) if test and labelled else None,
        knn_k=config.knn_k,
        knn_temperature=config.knn_temperature,
        linear_probe=config.linear_probe,
    )


def build_fit_options(config: PretrainConfig) -> FitOptions:
    """How long, how often."""
    return FitOptions(
        epochs=config.epochs,
        accumulation_steps=config.accumulation_steps,
        seed=config.seed,
        log_every=config.log_every,
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        max_bad_steps=config.max_bad_steps,
        log_gradients=config.log_gradients,
    )


@dataclass(frozen=True)
class Pretraining:
    """Everything that a pretraining run is made of."""

    config: PretrainConfig
    accelerator: Accelerator
    task: Task
    optimizer: Optimizer
    loader: TrainLoader
    schedule: Schedule
    evaluation: FrozenEvaluation
    options: FitOptions

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return len(self.loader) // self.config.accumulation_steps

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.steps_per_epoch * self.config.epochs

    def untrained_backbone(self) -> nn.Module:
        """The backbone as it was before training."""
        return build_backbone(self.config).to(self.accelerator.device)


def build_pretraining(config: PretrainConfig) -> Pretraining:
    """All of a pretraining run, checked. Raises ValueError for a mistake of the user's."""
    accepted_options(config.optim)
    set_threads(config.threads)
    accelerator = create_accelerator(config.mixed_precision, config.trackers, config.run_folder)
    with accelerator.local_main_process_first():  # the others find what it downloaded
        train = load_training_set(config)
        test = load_split(config.data, config.data_dir, "test", config.loader)
    loader = build_train_loader(config, train, accelerator)

    task = build_task(config)
    if config.sync_batch_norm and accelerator.num_processes > 1:
        convert_sync_batch_norm(task, accelerator.device)
    task.to(accelerator.device)
    if config.channels_last:
        task.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = build_optimizer(config, task)
    if config.compile:
        task.compile()
    return Pretraining(
        config=config,
        accelerator=accelerator,
        task=task,
        optimizer=optimizer,
        loader=loader,
        schedule=build_schedule(config, len(loader) // config.accumulation_steps),
        evaluation=build_evaluation(config, train, test, accelerator),
        options=build_fit_options(config),
    )


def plain_values(config: PretrainConfig) -> dict[str, object]:
    """A configuration as a plain dictionary, for checkpoints and trackers."""
    return asdict(config)
