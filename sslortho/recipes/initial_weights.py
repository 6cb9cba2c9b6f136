"""Weights that a training goes on from: a file's or timm's, in a backbone that was drawn by seed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from sslortho.augment.views import Triple
from sslortho.methods.task import BackboneSource, Task
from sslortho.models import choose_architecture, load_backbone, read_weights
from sslortho.models.backbones import Stem
from sslortho.models.depth import Layer, list_layers
from sslortho.models.own_networks import plain_network
from sslortho.models.weights.argument_name import argument_named
from sslortho.recipes.backbone import resolve_stem
from sslortho.recipes.initial_options import TIMM, InitialWeightsOptions

if TYPE_CHECKING:
    from sslortho.models import WeightsFile


@dataclass(frozen=True)
class InitialWeights:
    """Weights that were read, and what they say about their images."""

    file: "WeightsFile | None"
    """File of weights; None if timm's are in `state`."""
    state: dict[str, Tensor]
    normalisation: tuple[Triple, Triple] | None
    """Mean and deviation of each channel in their pretraining; None where it is not known."""

    def load_into(self, backbone: nn.Module) -> None:
        """Load the weights, in place. Raises ValueError if they do not fit."""
        network = plain_network(backbone)
        if self.file is None:
            network.load_state_dict(self.state)
            return
        with argument_named("initial_weights"):
            load_backbone(network, self.file)

    def choose_stem(self, backbone: str, stem: str) -> Stem:
        """Stem of a backbone by name, as given, or as the weights have it.

        Raises ValueError where the file does not tell it, and for a stem without effect.
        """
        if stem != "auto" or self.file is None:
            return resolve_stem(backbone, stem, 0)
        with argument_named("initial_weights"):
            return choose_architecture(self.file, backbone)[1]


def read_initial_weights(options: InitialWeightsOptions, backbone: str) -> InitialWeights | None:
    """Read the weights that the options name; None if they name none.

    Args:
        options: of the run.
        backbone: its name.

    Raises ValueError for weights that cannot be read or fetched.
    """
    if options.initial_weights is None:
        return None
    if options.initial_weights == TIMM:
        return _fetch_from_timm(backbone.removeprefix("timm:"))
    with argument_named("initial_weights"):
        file = read_weights(options.initial_weights)
    known = file.info and (file.info.mean, file.info.std)
    return InitialWeights(file, {}, known)


def _fetch_from_timm(name: str) -> InitialWeights:
    import timm

    if not timm.is_model(name):
        raise ValueError(f"backbone='timm:{name}' is not a timm model")
    if not timm.is_model_pretrained(name):
        raise ValueError(
            f"initial_weights='timm': timm has published none for {name}; give a file, or another backbone"
        )
    try:
        with torch.random.fork_rng(devices=[]):
            network = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # of huggingface_hub, urllib, safetensors, ...
        words = " ".join(str(error).split())[:200]
        raise ValueError(
            f"initial_weights='timm': the weights of {name} cannot be fetched ({type(error).__name__}: "
            f"{words}); where there is no internet give a file"
        ) from error
    config = cast(dict[str, Triple], network.pretrained_cfg)
    return InitialWeights(None, network.state_dict(), (config["mean"], config["std"]))


@dataclass(frozen=True)
class Start:
    """A backbone as training begins: drawn or handed over, then with the initial weights if there are some."""

    fresh: BackboneSource
    weights: InitialWeights | None

    @property
    def name(self) -> str:
        """Name of the backbone."""
        return self.fresh.name

    def create(self) -> nn.Module:
        """The backbone on the CPU; torch's generator is seeded. Raises ValueError for other weights."""
        backbone = self.fresh.create()
        if self.weights is not None:
            self.weights.load_into(backbone)
        return backbone


def _copies_of_backbone(task: Task) -> list[nn.Module]:
    """The backbone of a task, and its student or teacher."""
    kind, names = type(task.backbone), task.backbone.state_dict().keys()
    return [m for m in task.modules() if type(m) is kind and m.state_dict().keys() == names]


def layer_factors(task: Task, decay: float) -> dict[int, float]:
    """Factor of the learning rate of each parameter of the backbone, by the parameter's id.

    The last layer has `decay`, the one before it its square, and so on; what is behind the backbone has
    none, and so 1 (BEiT, arXiv 2106.08254; its code's `layer_decay`).
    """
    factors: dict[int, float] = {}
    for backbone in _copies_of_backbone(task):
        layers = list_layers(backbone)
        for depth, layer in enumerate(layers):
            factors |= {id(p): decay ** (len(layers) - depth) for p in layer.parameters()}
    return factors


def keep_first_layer(task: Task) -> None:
    """Freeze the first layer of the backbone, and its batch norm statistics, in place.

    Raises ValueError if nothing else is left to train.
    """
    kept: list[nn.Module] = []
    for backbone in _copies_of_backbone(task):
        layers = list_layers(backbone)
        if len(layers) == 1:
            raise ValueError("keep_stem=True leaves nothing to train: the backbone has one layer")
        _freeze(layers[0])
        kept += layers[0].modules
    task.kept = (*task.kept, *kept)


def _freeze(layer: Layer) -> None:
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
