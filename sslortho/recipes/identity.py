"""Identity of the objects that a Python caller has handed over, which a run compares when it resumes."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import nn

from sslortho.augment.own_views import OwnView, text_of
from sslortho.data.identity import ImageTable
from sslortho.recipes.given import Given
from sslortho.recipes.pretrain.resolve import PretrainRecipe
from sslortho.runs.inputs import Inputs, Role, hash_tensors

HINT = (
    " (a module that is handed over must begin with the same weights: call torch.manual_seed before it is "
    "made)"
)


def identify_objects(recipe: PretrainRecipe, images: Mapping[Role, ImageTable]) -> Inputs:
    """Identity of images and of what was handed over.

    Of a network and a projector the names, shapes and values of the initial weights count; of a method
    the name of its class; of views the numbers of a specification, and the name or text of a callable.
    """
    inputs = Inputs(images, handed=_identify_others(recipe.given))
    fixed = recipe.given.backbone is not None or recipe.weights is not None
    return identify_weights(inputs, recipe.given, recipe.start.create if fixed else None)


def identify_weights(
    inputs: Inputs, given: Given, create: Callable[[], nn.Module] | None
) -> Inputs:
    """The same inputs with the identity of initial weights that are not drawn by seed alone.

    Args:
        inputs: of the run.
        given: what was handed over.
        create: makes the backbone with its initial weights; None if seed and name tell these.
    """
    if create is None:
        return inputs
    hint = HINT if given.backbone is not None else ""
    return replace(inputs, backbone=hash_tensors(create().state_dict()), hint=hint)


def _identify_others(given: Given) -> dict[str, str]:
    found: dict[str, str] = {}
    if isinstance(given.projector, nn.Module):
        found["projector"] = hash_tensors(given.projector.state_dict())
    elif given.projector is not None:
        found["projector"] = getattr(given.projector, "__qualname__", text_of(given.projector))
    if given.method is not None:
        found["method"] = given.method.__qualname__
    if given.views is not None:
        texts = [v.name if isinstance(v, OwnView) else repr(v) for v in given.views]
        found["views"] = hashlib.blake2b("\n".join(texts).encode(), digest_size=16).hexdigest()
    return found
