"""Uses of parameters: which layer uses a parameter, and for which of its tensors.

A parameter is often held by another module than the layer that uses it:

| held by                                       | used by                     | as                     |
|-----------------------------------------------|-----------------------------|------------------------|
| the layer itself                              | that layer                  | a tensor of the layer  |
| torch's ParametrizationList                   | the parametrised layer      | the original of a      |
|                                               |                             | tensor, or one of      |
|                                               |                             | several                |
| a module that is a parametrisation            | the parametrised layer      | one of several         |
| ParameterList, ParameterDict                  | the module that holds those | a tensor of the module |
| several layers (tied weights)                 | each of them                | a tensor of each       |

The older weight_norm, spectral_norm and pruning keep their originals in the layer under other names.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList, type_before_parametrizations
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from sslortho.optim.layers import is_container, is_known

Part = Literal["tensor", "original", "magnitude", "piece"]
"""The tensor itself; the one original of its parametrisation, or its direction under weight_norm;
weight_norm's magnitude; one of several originals, or a parameter of the parametrisation."""


class Use(NamedTuple):
    """A layer that uses a parameter."""

    layer: nn.Module
    tensor: str
    """Name of the tensor in the layer that the parameter is, or is a part of."""
    part: Part = "tensor"
    makers: tuple[str, ...] = ()
    """Names of the parametrisations that make the tensor, in the order of their work."""


class UseFinder:
    """The uses of the parameters of a model, found once from its modules."""

    def __init__(self, model: nn.Module) -> None:
        self._parametrised: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
        self._lists: dict[int, list[ParametrizationList]] = defaultdict(list)
        self._holders: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
        for module in model.modules():
            # not getattr: a compiled layer answers with the attributes of the layer inside
            lists = dict(module.named_children()).get("parametrizations")
            for tensor, made in lists.items() if isinstance(lists, nn.ModuleDict) else ():
                if isinstance(made, ParametrizationList):
                    self._parametrised[id(made)].append((module, tensor))
            if isinstance(module, ParametrizationList):
                for maker in module:
                    self._lists[id(maker)].append(module)
            for name, child in module.named_children():
                if is_container(child):
                    self._holders[id(child)].append((module, name))

    def find(self, module: nn.Module, name: str) -> Iterator[Use]:
        """Yield the layers that use a parameter which `module` holds under `name`."""
        if id(module) in self._parametrised:
            yield from self._find_original(module, name)
        elif id(module) in self._holders:
            for holder, held in self._holders[id(module)]:
                yield from self.find(holder, f"{held}.{name}")
        elif id(module) in self._lists and not is_known(module):
            for made in self._lists[id(module)]:
                for use in self._find_original(made, name):
                    yield use._replace(part="piece")
        else:
            yield next(_older_uses(module, name), Use(module, name))

    def _find_original(self, made: nn.Module, name: str) -> Iterator[Use]:
        makers = [maker for maker in made if isinstance(maker, nn.Module)]  # pyright: ignore
        part: Part = "piece" if name != "original" else "original"
        if isinstance(makers[0], _WeightNorm):
            part = "magnitude" if name == "original0" else "original"
        names = tuple(type_before_parametrizations(maker).__name__.lstrip("_") for maker in makers)
        for layer, tensor in self._parametrised[id(made)]:
            for use in self.find(layer, tensor):
                outer = use.part if use.part in ("magnitude", "piece") else part
                yield use._replace(part=outer, makers=names + use.makers)


def _older_uses(module: nn.Module, name: str) -> Iterator[Use]:
    """Yield the use of a parameter that a hook before the forward pass turns into a tensor."""
    for hook in module._forward_pre_hooks.values():
        maker = (type(hook).__name__,)
        if isinstance(hook, WeightNorm):
            if name == f"{hook.name}_g":
                yield Use(module, hook.name, "magnitude", maker)
            if name == f"{hook.name}_v":
                yield Use(module, hook.name, "original", maker)
        elif isinstance(hook, SpectralNorm) and name == f"{hook.name}_orig":
            yield Use(module, hook.name, "original", maker)
        elif isinstance(hook, BasePruningMethod) and name == f"{hook._tensor_name}_orig":
            yield Use(module, hook._tensor_name, "tensor", maker)


class NamedUse(NamedTuple):
    """A name of a parameter, with the layers that use it under this name."""

    name: str
    parameter: Tensor
    uses: list[Use]


def list_uses(model: nn.Module, every_name: bool = True) -> list[NamedUse]:
    """Every parameter, frozen ones too, in the model's order.

    Args:
        model: its parameters are not read.
        every_name: whether to list the names that parameters have by modules registered twice, too.
    """
    finder = UseFinder(model)
    return [
        NamedUse(f"{prefix}.{name}" if prefix else name, parameter, list(finder.find(module, name)))
        for prefix, module in model.named_modules(remove_duplicate=not every_name)
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
    ]
