"""Features of a data set by a frozen backbone, as tensors: `sslortho.extract_features`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sslortho import evaluate
from sslortho.data import ImageSet
from sslortho.data.loading import (
    choose_training_images,
    create_evaluation_loader,
    load_labelled_data,
    load_test_set,
    load_training_set,
)
from sslortho.data.options import DATA_SETS
from sslortho.options import option
from sslortho.recipes.evaluation import place_subject
from sslortho.recipes.given import NOTHING, Given
from sslortho.recipes.options import BackboneOptions
from sslortho.train.launch import join_ranks, shard_of


@dataclass(frozen=True)
class Features:
    """Features of the images of a data set, in their order, on the CPU."""

    features: Tensor
    """float32 (n, dim)."""
    labels: Tensor
    """int64 (n,); -1 where an image has none."""

    @property
    def shape(self) -> torch.Size:
        """Shape of the features, (n, dim)."""
        return self.features.shape


@dataclass(frozen=True, kw_only=True)
class FeatureOptions(BackboneOptions):
    """Options of `extract_features`."""

    command: ClassVar[str] = "extract_features"

    split: Literal["train", "test"] | None = option(None, group="data")
    """Images of the data set that the features are of. Default: the test images; of images of your own,
    where none are to test on, all."""

    def __post_init__(self) -> None:
        for name, idle in {"out": None, "debug": False, "pictures": True}.items():
            if getattr(self, name) != idle:
                raise ValueError(f"{name}={getattr(self, name)!r} has no effect; leave it out")
        if self.split is None and self.data in DATA_SETS:
            object.__setattr__(self, "split", "test")
        test = self.split == "test"
        names = ("subset", "train_percent", "train_list")
        self._check_effect("split", **{n: test and getattr(self, n) is not None for n in names})
        super().__post_init__()

    @property
    def default_folder(self) -> str:
        return "."  # nothing is written

    @property
    def skip_list(self) -> Path | None:
        """None: nothing is written."""
        return None


def extract(options: FeatureOptions, given: Given = NOTHING) -> Features:
    """Load data and backbone and extract, on every rank; each gets all features.

    Raises ValueError for a user's mistake.
    """
    accelerator = join_ranks(options, options.run_folder, options.mixed_precision)
    with accelerator.local_main_process_first():  # the others find what it downloaded
        images = _load_images(options, given)
    subject, spec = place_subject(options, images, accelerator, given)
    accelerator.print(subject.origin)
    loader = create_evaluation_loader(options, images, spec, shard_of(accelerator))
    found = evaluate.extract_features(subject.backbone, loader, lambda: accelerator.autocast())
    accelerator.end_training()
    return Features(*(tensor.cpu() for tensor in found))


def _load_images(options: FeatureOptions, given: Given) -> ImageSet:
    if options.split != "train":
        images = load_test_set(options, given.test)
        if images is not None:
            return images
        if options.split == "test":
            raise ValueError(
                f"data_dir={options.data_dir!r} has no test images; add test/ or val/, or take "
                "split='train'"
            )
    if options.train_percent is None and options.train_list is None:
        return load_training_set(options, given.train)
    return choose_training_images(
        options,
        load_labelled_data(options, given.images),
        options.train_percent,
        options.train_list,
    ).train
