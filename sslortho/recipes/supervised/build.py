"""Everything that a supervised training is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from accelerate import Accelerator

from sslortho.augment.views import evaluation_spec
from sslortho.data import EvaluationLoader, ImageSet, hold_out
from sslortho.data.labelled import LabelledData, check_classes, load_labelled_data
from sslortho.data.loading import create_evaluation_loader, create_train_loader
from sslortho.methods import Classification
from sslortho.models.placement import place_network
from sslortho.recipes.backbone import Subject
from sslortho.recipes.evaluation import ClassifierTraining, identify
from sslortho.recipes.fitted import Choice, choose_batch, fill, settled, to_plain
from sslortho.recipes.given import NOTHING, Given
from sslortho.recipes.identity import identify_weights
from sslortho.recipes.initial_weights import keep_first_layer
from sslortho.recipes.plan import describe_optimizer, describe_views, name_network, plan_training
from sslortho.recipes.supervised.options import SupervisedOptions
from sslortho.recipes.supervised.resolve import (
    SupervisedRecipe,
    check_beginning,
    create_schedule,
    resolve,
    resolve_supervised_optimizer,
)
from sslortho.recipes.training import Training, compile_task
from sslortho.runs.inputs import Inputs
from sslortho.train.launch import join_ranks, shard_of
from sslortho.train.loading_turns import load_in_turn
from sslortho.train.sharding import check_sharding

USUAL_BATCH = 128
"""Samples of a step where the option is left out and there are as many images."""


@dataclass(frozen=True)
class Supervised(ClassifierTraining):
    """Everything that a supervised run is made of."""

    recipe: SupervisedRecipe
    held_out: EvaluationLoader | None
    """Evaluation views of the held-out training images."""

    def evaluate_online(self, task: Classification) -> dict[str, float]:
        """Figures of the held-out images (val_top1, ...) if there are some, else of the test images."""
        if self.held_out is None:
            return self.evaluate(task)
        figures = self.measure(task, self.held_out)
        return {f"val_{name.removeprefix('test_')}": value for name, value in figures.items()}


def _load(options: SupervisedOptions, given: Given) -> tuple[LabelledData, ImageSet | None]:
    """Images to train and to test on, and those held out. Test images may be missing if none are used."""
    data = load_labelled_data(options, given.images, needs_test=options.test)
    if options.validation is None:
        return check_classes(options, data), None
    train, held_out = hold_out(data.train, options.validation, options.seed)
    return check_classes(options, replace(data, train=train)), held_out


def read_inputs(options: SupervisedOptions, given: Given) -> Inputs:
    """Identity of the images that the options name. Raises ValueError as they do."""
    data, held_out = _load(options, given)
    recipe = resolve(options, data, resolve_supervised_optimizer(options), given)
    return _identify(recipe, data, held_out)


def _identify(recipe: SupervisedRecipe, data: LabelledData, held_out: ImageSet | None) -> Inputs:
    """Identity of images, and of the initial weights where a module or a file gives them."""
    inputs = identify(data, None, held_out, classifies=True)
    fixed = recipe.given.backbone is not None or recipe.weights is not None
    return identify_weights(inputs, recipe.given, recipe.start.create if fixed else None)


def _build_training(
    recipe: SupervisedRecipe,
    accelerator: Accelerator,
    task: Classification,
    images: ImageSet,
    test: ImageSet | None,
    inputs: Inputs,
    chosen: Mapping[str, Choice],
) -> Training:
    options = recipe.options
    loader = create_train_loader(
        options,
        images,
        (recipe.view,),
        settled(options.batch_size),
        shard_of(accelerator),
        options.accumulation_steps,
    )
    place_network(
        task,
        accelerator.device,
        channels_last=options.channels_last,
        sync_batch_norm=options.sync_batch_norm and accelerator.num_processes > 1,
    )
    if options.keep_stem:
        keep_first_layer(task)
    optimizer = recipe.create_optimizer(task)
    compile_task(task, options)
    schedule = create_schedule(options, len(loader))
    plan = plan_training(
        options,
        accelerator,
        {"to train on": images, "to test on": test},
        f"{name_network(recipe.info.backbone, task.backbone)} ({recipe.info.stem} stem)",
        task,
        describe_optimizer(options, recipe.optimizer.lr, per_256=False),
        len(loader) // options.accumulation_steps,
        chosen,
        {"views": f"{recipe.view_name}, {describe_views((recipe.view,))}"},
    )
    return Training(
        options, accelerator, task, optimizer, loader, schedule, inputs, to_plain(chosen), plan
    )


def build(options: SupervisedOptions, given: Given = NOTHING) -> Supervised:
    """Load the data, decide what they decide, and create everything, on every rank.

    Args:
        options: of the run.
        given: objects in place of what they name.

    Raises ValueError for a user's mistake.
    """
    # mistakes are found before data that may take minutes
    optimizer = resolve_supervised_optimizer(options)
    check_beginning(options, given)
    fill(options, choose_batch(options, USUAL_BATCH, USUAL_BATCH))
    folder = options.run_folder
    accelerator = join_ranks(options, folder, options.mixed_precision, options.trackers)
    if options.shard:
        check_sharding(accelerator)
    with load_in_turn(accelerator):
        data, held_out = _load(options, given)
    chosen = choose_batch(options, USUAL_BATCH, len(data.train))
    options = fill(options, chosen)
    recipe = resolve(options, data, optimizer, given)
    task = recipe.create_task()
    beginning = "from scratch" if recipe.weights is None else f"from {options.initial_weights}"
    origin = f"trained {beginning}, seed {options.seed}"
    spec = evaluation_spec(recipe.view, data.train.holds_small_images)

    def evaluation_loader(images: ImageSet) -> EvaluationLoader:
        return create_evaluation_loader(options, images, spec, shard_of(accelerator))

    inputs = _identify(recipe, data, held_out)
    return Supervised(
        options=options,
        accelerator=accelerator,
        data=data,
        subject=Subject(task.backbone, recipe.info, task.classifier.in_features, origin),
        spec=spec,
        test=evaluation_loader(settled(held_out if data.tested is None else data.tested)),
        task=task,
        training=_build_training(
            recipe, accelerator, task, data.train, data.tested, inputs, chosen
        ),
        recipe=recipe,
        held_out=None if held_out is None else evaluation_loader(held_out),
    )
