"""Layers of a backbone by depth: for rates that fall towards the images, and for a stem that stays.

A layer is a block of the network (a residual or transformer block, a convolution before them), with the
norms that stand alone behind it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn

from sslortho.models.own_networks import plain_network

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass
class Layer:
    """One layer: its modules, and parameters of its own beside theirs."""

    modules: list[nn.Module] = field(default_factory=list)
    loose: list[nn.Parameter] = field(default_factory=list)
    """Parameters of the network around the layers, such as positions and a class token."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters of the layer."""
        yield from self.loose
        for module in self.modules:
            yield from module.parameters()


def _is_row_of_blocks(module: nn.Module) -> bool:
    """Whether a module holds two or more blocks of one type, and nothing else.

    A block has two layers or more, as residual and transformer blocks do. A convolution with its norm has one,
    and such rows are found inside of blocks too; so are sequences side by side, which are branches.
    """
    children = list(module.children())
    if len(children) < 2 or len({type(child) for child in children}) > 1:
        return False
    first = children[0]
    return type(first) not in CONTAINERS and sum(map(_holds_matrix, first.modules())) > 1


def _holds_matrix(module: nn.Module) -> bool:
    return any(p.ndim > 1 for p in module.parameters(recurse=False))


def _with_parameters(module: nn.Module) -> list[nn.Module]:
    return [child for child in module.children() if any(True for _ in child.parameters())]


def _leads_to_blocks(module: nn.Module) -> bool:
    """Whether the layers of a module count one by one, and not as one: a sequence, or a module around a row
    of blocks."""
    return isinstance(module, CONTAINERS) or any(map(_is_row_of_blocks, module.modules()))


def _add_layers(module: nn.Module, layers: list[Layer]) -> None:
    layers[0].loose += module.parameters(recurse=False)
    for child in _with_parameters(module):
        if _leads_to_blocks(child):
            _add_layers(child, layers)
        elif layers[-1].modules and all(p.ndim < 2 for p in child.parameters()):
            layers[-1].modules.append(child)  # a norm
        elif layers[-1].modules:
            layers.append(Layer([child]))
        else:
            layers[-1].modules.append(child)


def list_layers(backbone: nn.Module) -> list[Layer]:
    """Layers of a network from its images on, in the order in which it registers them.

    Parameters of the network itself belong to the first layer, as in timm: positions, a class token.
    A network that is a sequence has a layer for each convolution or dense layer.
    """
    network = plain_network(backbone)
    while len(_with_parameters(network)) == 1 and not list(network.parameters(recurse=False)):
        (network,) = _with_parameters(network)
    layers = [Layer()]
    _add_layers(network, layers)
    if not layers[0].modules:  # a single layer without modules inside
        layers[0].modules.append(network)
        layers[0].loose = []
    return layers
