"""Images and backbone of a file of features: found again where it says that they are, and compared."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from sslortho.augment import EvaluationSpec
from sslortho.data import ImageSet
from sslortho.data.loading import evaluation_views
from sslortho.data.preprocessing import Preprocessing
from sslortho.evaluate.feature_files import Features
from sslortho.options import GIVEN
from sslortho.recipes.backbone import load_subject
from sslortho.recipes.embed.options import EmbedOptions
from sslortho.recipes.embed.run import load_images
from sslortho.runs.inputs import BACKBONE, hash_tensors

PICTURE_SIDE = 96
"""Least side of an image in a picture, in pixels."""


def options_of(features: Features, **changed: str | None) -> EmbedOptions:
    """Options of `embed` that the features were made with; those that are not None are changed.

    Raises ValueError for features that do not say them.
    """
    stored = features.about.get("options")
    if not isinstance(stored, Mapping):
        raise ValueError(
            "the features do not say which images and weights they are of; write them by sslortho embed"
        )
    known = {field.name for field in fields(EmbedOptions)}
    values: dict[str, Any] = {name: value for name, value in stored.items() if name in known}
    values |= {"out": None, "dtype": "float32", "overwrite": False}  # nothing is written
    if changed.get("data") is not None:
        values["data_dir"] = None
    values |= {name: value for name, value in changed.items() if value is not None}
    return EmbedOptions(**values)


def images_of(features: Features, data: str | None = None) -> tuple[ImageSet, EmbedOptions]:
    """The images that the features are of, and the options that they are read with.

    Args:
        features: a file's.
        data: their path, if it is another one now.

    Raises ValueError if they cannot be read, or are others now.
    """
    options = options_of(features, data=data)
    if options.data == GIVEN:
        raise ValueError(
            "the features are of images that a Python program handed over, which no file names"
        )
    images = load_images(options)
    if images.table.digest != features.about["inputs"]["embedded"]["digest"]:
        raise ValueError(
            f"the images are others now than when the features were made ({len(features)} then, {len(images)} "
            "now); make the features anew"
        )
    return images, options


def backbone_of(features: Features, backbone_from: str | None = None) -> nn.Module:
    """The backbone that the features are of, on a GPU if there is one.

    Args:
        features: a file's.
        backbone_from: its run folder or file, if it is another one now.

    Raises ValueError if it cannot be read, or its weights are others now.
    """
    options = options_of(features, backbone_from=backbone_from)
    if options.backbone_from == GIVEN:
        raise ValueError(
            "the features are of a module that a Python program handed over, which no file names"
        )
    network = load_subject(options, features.about["view"]["crop_size"]).backbone
    if hash_tensors(network.state_dict()) != features.about["inputs"][BACKBONE]["digest"]:
        raise ValueError(
            f"backbone_from={options.backbone_from!r} has other weights now than when the features were "
            "made; make the features anew, or give the backbone that they are of"
        )
    return network.to("cuda" if torch.cuda.is_available() else "cpu")


def spec_of(features: Features) -> EvaluationSpec:
    """View of the images that the features are of."""
    view = dict(features.about["view"])
    mean, std = tuple(view["mean"]), tuple(view["std"])
    return EvaluationSpec(crop_size=view["crop_size"], resize=view["resize"], mean=mean, std=std)


def picture_spec_of(features: Features) -> EvaluationSpec:
    """The same part of the images, of PICTURE_SIDE pixels or more, for people to look at."""
    spec = spec_of(features)
    factor = -(-PICTURE_SIDE // spec.crop_size)
    return replace(spec, crop_size=spec.crop_size * factor, resize=spec.resize * factor)


def preprocessing_of(features: Features, spec: EvaluationSpec | None = None) -> Preprocessing:
    """Preprocessing of another image, as the images that the features are of had it, or as `spec` says."""
    spec = spec or spec_of(features)
    return Preprocessing(crop_size=spec.crop_size, mean=spec.mean, std=spec.std, resize=spec.resize)


def views_of(
    spec: EvaluationSpec, images: ImageSet, options: EmbedOptions, indices: Tensor
) -> Tensor:
    """Views (n, 3, size, size) of the images `indices` (n,), normalised, on the CPU."""
    return evaluation_views(replace(options, workers=None), images, spec, indices)
