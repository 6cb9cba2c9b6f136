"""Extraction of features: into memory, or into a file row by row, so that it can be killed."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from tqdm import tqdm

from sslortho import evaluate
from sslortho.augment import EvaluationSpec
from sslortho.data import ImageSet
from sslortho.data.batches import evaluation_batches
from sslortho.data.first_rank import say
from sslortho.data.image_sets import Split
from sslortho.data.labelled import choose_training_images, load_labelled_data
from sslortho.data.loading import (
    check_workers,
    create_evaluation_loader,
    evaluation_batch,
    load_test_set,
    load_training_set,
    name_data,
)
from sslortho.data.skip_list import SKIP_LIST
from sslortho.evaluate.feature_files import Features, FeatureTable, check_format, load_features
from sslortho.evaluate.feature_rows import FeatureRows
from sslortho.options import GIVEN
from sslortho.recipes.backbone import Subject, check_source
from sslortho.recipes.embed.identity import about_features, drop_unbegun, find_changes, take_folder
from sslortho.recipes.embed.options import EmbedOptions
from sslortho.recipes.evaluation import place_subject
from sslortho.recipes.given import NOTHING, Given
from sslortho.runs.inputs import Inputs, hash_tensors
from sslortho.runs.lock import is_held, release_folder
from sslortho.train.launch import join_ranks, shard_of
from sslortho.train.loading_turns import load_in_turn
from sslortho.train.on_main import on_main

BAR_AFTER = 2.0
"""Seconds after which a bar is shown."""


def load_images(options: EmbedOptions, given: Given = NOTHING) -> ImageSet:
    """The images that the options mean. Raises ValueError where there are none."""
    return _choose_images(options, given)[0]


def _choose_images(options: EmbedOptions, given: Given) -> tuple[ImageSet, Split]:
    """The same, and of which split they are."""
    if options.split != "train":
        images = load_test_set(options, given.test)
        if images is not None:
            return images, "test"
        if options.split == "test":
            remedy = "add test/ or val/, or take split='train'"
            if options.data == GIVEN:
                remedy = "leave split out"
            raise ValueError(f"{name_data(options)} has no test images; {remedy}")
    if options.train_percent is None and options.train_list is None:
        return load_training_set(options, given.train), "train"
    labelled = load_labelled_data(options, given.images, needs_test=False)
    chosen = choose_training_images(options, labelled, options.train_percent, options.train_list)
    return chosen.train, "train"


def name_rows(images: ImageSet) -> list[str]:
    """Paths of the images' files relative to the folder of the data; their numbers if they are no files."""
    names = images.table.names
    if names is None:
        try:
            names = images.file_names()
        except ValueError:  # a beton whose manifest is gone
            names = None
    return [str(i) for i in range(len(images))] if names is None else list(names)


@dataclass(frozen=True)
class Embedding:
    """Images and the backbone that reads them, on this rank."""

    options: EmbedOptions
    accelerator: Accelerator
    images: ImageSet
    subject: Subject
    spec: EvaluationSpec

    def inputs(self) -> Inputs:
        """Identity of images and weights."""
        weights = hash_tensors(self.subject.backbone.state_dict())
        return Inputs({"embedded": self.images.table}, weights)


def build(options: EmbedOptions, given: Given = NOTHING) -> Embedding:
    """Load images and backbone, on every rank. Raises ValueError for a user's mistake."""
    if options.out is not None:
        check_format(Path(options.out))
    check_source(options)
    accelerator = join_ranks(options, options.run_folder, options.mixed_precision)
    with load_in_turn(accelerator):
        images, split = _choose_images(options, given)
    check_workers(options, images)
    if split == "test" and options.split is None and options.out is not None:
        say(f"features of the {len(images):,} test images; --split train has the others")
    subject, spec = place_subject(options, images, accelerator, given)
    accelerator.print(subject.origin)
    return Embedding(options, accelerator, images, subject, spec)


def run(options: EmbedOptions, given: Given = NOTHING) -> Features:
    """Extract the features, on every rank; each gets all of them.

    With `options.out` they are written to that file, and what a killed run has left is taken up.

    Raises ValueError for a user's mistake, and for a file of other images or weights.
    """
    embedding = build(options, given)
    accelerator = embedding.accelerator
    try:
        if options.out is None:
            return _extract(embedding)
        _write(embedding, Path(options.out))
        accelerator.wait_for_everyone()
        return load_features(options.out)
    finally:
        accelerator.end_training()


def _extract(run: Embedding) -> Features:
    loader = create_evaluation_loader(run.options, run.images, run.spec, shard_of(run.accelerator))
    autocast = run.accelerator.autocast
    found = evaluate.extract_features(run.subject.backbone, loader, lambda: autocast())
    features, labels = (tensor.cpu() for tensor in found)
    return Features(features, labels, name_rows(run.images), run.images.classes, _about(run))


def _about(run: Embedding) -> dict[str, Any]:
    return about_features(run.options, run.subject, run.spec, run.inputs())


def _write(run: Embedding, out: Path) -> None:
    """Compute the rows that are missing, each rank its share, and make the file of all."""
    options, accelerator = run.options, run.accelerator
    about = _about(run)
    done = on_main(accelerator, lambda: _prepare(run, about, out))
    if done is None:  # finished already
        return
    rows = FeatureRows(options.work_folder, len(run.images), run.subject.dim, options.dtype)
    todo = np.flatnonzero(~done)
    try:
        _compute(run, rows, todo)
        accelerator.wait_for_everyone()
        on_main(accelerator, lambda: _finish(run, rows, about, out))
        accelerator.print(_describe(out, rows, len(todo)))
    finally:
        if accelerator.is_main_process:
            release_folder(options.work_folder)


def _prepare(run: Embedding, about: dict[str, Any], out: Path) -> NDArray[np.bool_] | None:
    """Rows that an earlier run has left, bool (rows,); None if the file is there and of the same."""
    options = run.options
    if out.is_dir():
        raise ValueError(f"out={str(out)!r} is a folder; give the name of a file")
    if out.exists() and not options.overwrite:
        changes = find_changes(out, about, run.inputs())
        drop_unbegun(options)
        if changes:
            raise ValueError(
                f"out={str(out)!r} is there already, of something else: {'; '.join(changes)}; give another "
                "--out, or --overwrite"
            )
        if is_held(options.work_folder / ".lock") is False:  # by one that overwrites the file
            shutil.rmtree(options.work_folder, ignore_errors=True)
        print(f"{out}: the features are there already; --overwrite computes them again")
        return None
    take_folder(options, about, run.inputs())
    rows = FeatureRows(options.work_folder, len(run.images), run.subject.dim, options.dtype)
    done = rows.create()
    if done.any():
        print(f"{options.work_folder}: {int(done.sum()):,} of {len(done):,} rows are there")
    return done


def _compute(run: Embedding, rows: FeatureRows, todo: NDArray[np.int64]) -> None:
    """Compute this rank's share of the rows `todo`, (n,), and write them batch by batch."""
    if not len(todo):
        return
    images = run.images
    if len(todo) < len(images):
        images = images.select(torch.from_numpy(todo))
    shard = shard_of(run.accelerator)
    loader = create_evaluation_loader(run.options, images, run.spec, shard)
    # the loader's own batches, to know which rows they are
    size = evaluation_batch(run.spec.crop_size, shard.device)
    parts = evaluation_batches(len(todo), size, shard.index, shard.count)
    autocast = run.accelerator.autocast
    batches = evaluate.feature_batches(run.subject.backbone, loader, lambda: autocast())
    bar = tqdm(
        total=len(todo),
        unit="image",
        desc="embedding",
        delay=BAR_AFTER,
        disable=not run.accelerator.is_main_process,
    )
    with bar, rows.writer(shard.index) as writer:
        for part, (features, _) in zip(parts, batches, strict=True):
            writer.write(todo[part.start : part.stop], features.cpu().numpy())
            bar.update(len(part) * shard.count)


def _finish(run: Embedding, rows: FeatureRows, about: dict[str, Any], out: Path) -> None:
    """Make the file of rows that are complete, and remove their folder."""
    rows.flush()
    labels = run.images.labels.numpy()
    table = FeatureTable(rows.read(), name_rows(run.images), labels, run.images.classes, about)
    table.write(out, rows.path)
    skipped = run.options.work_folder / SKIP_LIST
    if skipped.exists():
        listed = out.with_name(f"{out.name}.{SKIP_LIST}")
        skipped.replace(listed)
        print(f"images that were left out: {listed}")
    shutil.rmtree(run.options.work_folder)


def _describe(out: Path, rows: FeatureRows, computed: int) -> str:
    text = f"{out}: {rows.rows:,} rows of {rows.dim} features, {rows.dtype}"
    return text if computed == rows.rows else f"{text}; {computed:,} of them computed now"
