"""Names that wrappers changed, at the beginning and inside, and weights that a file keeps in parts."""

import itertools

import pytest
import torch
from helpers.networks import check, features, prefixed, resnet10, saved, trained, weights
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations, parametrize, prune

from sslortho.models import load_backbone, recognise
from sslortho.models.cifar_resnet import BasicCNN, CifarResNet


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module)  # pyright: ignore[reportReturnType]


def averaged(module: nn.Module) -> nn.Module:
    return torch.optim.swa_utils.AveragedModel(module)


WHOLE = (compiled, checkpoint_wrapper, nn.DataParallel, averaged)
PARTS = (compiled, checkpoint_wrapper, nn.DataParallel)


@pytest.mark.parametrize("wrap", PARTS)
def test_parts_that_are_wrapped(tmp_path, wrap):
    original, wrapped = trained(CifarResNet(20)), trained(CifarResNet(20))
    wrapped.conv1, wrapped.layer2 = wrap(wrapped.conv1), wrap(wrapped.layer2)
    wrapped.layer1[0] = wrap(wrapped.layer1[0])
    path = saved(tmp_path / "x.pth", prefixed("module.backbone.", wrapped))
    report = check(CifarResNet(20), path, original)
    assert report.prefix == "module.backbone."
    assert report.unused == {}
    check(CifarResNet(20), path, original, "module.backbone")


@pytest.mark.parametrize(
    ("outer", "inner"), [pair for pair in itertools.product(WHOLE, PARTS) if len(set(pair)) == 2]
)
def test_wrappers_of_the_whole_and_of_its_parts(tmp_path, outer, inner):
    original, model = trained(BasicCNN()), nn.Module()
    backbone = trained(BasicCNN())
    backbone.features[3] = inner(nn.DataParallel(backbone.features[3]))
    model.backbone = outer(inner(backbone))
    path = saved(tmp_path / "x.pth", {"state_dict": model.state_dict(), "epoch": 1})
    report = check(BasicCNN(), path, original)
    assert report.prefix.startswith("backbone.")
    assert sum(report.unused.values()) == (outer is averaged)  # n_averaged


@pytest.mark.parametrize(
    "wrapper",
    [
        *("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_forward_module"),
        *(
            "module",
            "_orig_mod._checkpoint_wrapped_module",
            "_fsdp_wrapped_module.module._orig_mod",
        ),
    ],
)
@pytest.mark.parametrize("whole", ["", "backbone.", "model.net."])
def test_any_wrapper_before_the_last_part_of_some_names(tmp_path, wrapper, whole):
    original = trained(CifarResNet(20))
    state = {}
    for name, value in original.state_dict().items():
        owner, _, last = name.rpartition(".")
        own = name.startswith(("conv1", "layer1.0", "layer3"))
        state[
            f"{whole}{wrapper}.{owner}.{wrapper}.{last}" if own else f"{whole}{wrapper}.{name}"
        ] = value
    report = check(CifarResNet(20), saved(tmp_path / "x.pth", state), original)
    assert report.prefix == f"{whole}{wrapper}."
    assert (report.matched, report.unused) == (len(state), {})


def test_wrapped_networks_are_recognised():
    with torch.device("meta"):
        network = CifarResNet(20)
    network.layer1 = compiled(network.layer1)
    assert recognise(weights(prefixed("net.", network))) == [("resnet20", "stock")]


def test_a_wrapped_network_takes_plain_and_wrapped_weights(tmp_path):
    original, ours = trained(BasicCNN()), compiled(BasicCNN().eval())
    path = saved(tmp_path / "x.pth", prefixed("model.", original))
    load_backbone(ours, weights(torch.load(path)))
    torch.testing.assert_close(features(ours._orig_mod), features(original), rtol=0, atol=0)
    wrapped = trained(BasicCNN(), 1)
    wrapped.features = checkpoint_wrapper(wrapped.features)
    load_backbone(ours, weights(wrapped.state_dict()))
    torch.testing.assert_close(features(ours._orig_mod), features(trained(BasicCNN(), 1)))


def test_a_layer_of_ones_own_called_module(tmp_path):
    """A network whose own names become equal without "module" is read by its names as they are."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.conv.module = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return (self.conv(x) + 2 * self.conv.module(x)).flatten(1)

    original = trained(Odd())
    check(Odd(), saved(tmp_path / "x.pth", prefixed("backbone.", original)), original)


def test_two_values_of_one_tensor_are_refused():
    state = trained(BasicCNN()).state_dict()
    state["features._orig_mod.3.weight"] = state["features.3.weight"] + 1
    with pytest.raises(ValueError, match=r"layers that the backbone lacks: features\._orig_mod"):
        load_backbone(BasicCNN(), weights(state))


# Weights in parts


def wrap_layers(network: nn.Module, function) -> None:
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            function(module)


def prune_some(module: nn.Module) -> None:
    prune.random_unstructured(module, "weight", 0.3)


def spectral(module: nn.Module) -> None:
    parametrizations.spectral_norm(module, n_power_iterations=1)


def old_spectral(module: nn.Module) -> None:
    nn.utils.spectral_norm(module)


def spectral_of_inputs(module: nn.Module) -> None:
    parametrizations.spectral_norm(module, dim=1)


def old_spectral_of_inputs(module: nn.Module) -> None:
    nn.utils.spectral_norm(module, dim=1)


def weight_norm_over_all(module: nn.Module) -> None:
    parametrizations.weight_norm(module, dim=None)


def weight_norm_of_inputs(module: nn.Module) -> None:
    parametrizations.weight_norm(module, dim=1)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (parametrizations.weight_norm, "weight_norm"),
        (weight_norm_of_inputs, "weight_norm"),
        (weight_norm_over_all, "weight_norm"),
        (nn.utils.weight_norm, "weight_norm"),
        (spectral, "spectral_norm"),
        (old_spectral, "spectral_norm"),
        (spectral_of_inputs, "spectral_norm"),
        (old_spectral_of_inputs, "spectral_norm"),
        (prune_some, "pruning"),
    ],
)
def test_weights_in_parts(tmp_path, function, kind):
    original = trained(CifarResNet(20))
    wrap_layers(original, function)
    original.train()
    with (
        torch.no_grad()
    ):  # magnitudes, and the vectors of spectral norm, differ from their first values
        original(torch.randn(2, 3, 32, 32))
        for name, value in original.named_parameters():
            if name.endswith(("original0", "_g")):
                value *= 1.5
    path = saved(tmp_path / "x.pth", prefixed("backbone.", original.eval()))
    report = check(CifarResNet(20), path, original)
    assert report.unused == {}
    assert report.notes == (f"19 weights are computed from their {kind}",)


def test_a_network_in_parts_takes_its_parts(tmp_path):
    original, ours = trained(BasicCNN()), BasicCNN()
    wrap_layers(original, parametrizations.weight_norm)
    wrap_layers(ours, parametrizations.weight_norm)
    report = check(ours, saved(tmp_path / "x.pth", original.state_dict()), original)
    assert report.notes == ()
    torch.testing.assert_close(dict(ours.state_dict()), dict(original.state_dict()), rtol=0, atol=0)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight

    def right_inverse(self, weight):
        return weight / 2


@pytest.mark.parametrize(
    "function",
    [
        lambda m: parametrizations.orthogonal(m),
        lambda m: parametrize.register_parametrization(m, "weight", Doubled()),
    ],
)
def test_other_parametrisations_are_refused_with_the_remedy(function):
    network = BasicCNN()
    function(network.features[3])
    message = (
        r"missing: features\.3\.weight; backbone\.features\.3\.weight is parametrised in the file "
        r"\(backbone\.features\.3\.parametrizations.*remove_parametrizations"
    )
    with pytest.raises(ValueError, match=message):
        load_backbone(BasicCNN(), weights(prefixed("backbone.", network)))


def test_spectral_norms_that_cannot_be_told_are_refused():
    """A bounded norm keeps its sigma; vectors that are no step of the power method tell no dimension."""
    network = BasicCNN()
    nn.utils.spectral_norm(network.features[3])
    unknown = "features.3.weight is parametrised in the file"
    bounded = {**network.state_dict(), "features.3.weight_sigma": torch.ones(())}
    with pytest.raises(ValueError, match=unknown):
        load_backbone(BasicCNN(), weights(bounded))
    with pytest.raises(ValueError, match=unknown):  # random vectors of a square weight
        load_backbone(BasicCNN(), weights(network.state_dict()))


def test_adapters_beside_a_weight_are_not_dropped():
    """Names as peft writes them for LoRA."""
    state = BasicCNN().state_dict()
    state["features.3.base_layer.weight"] = state.pop("features.3.weight")
    state["features.3.lora_A.default.weight"] = torch.zeros(2, 32)
    with pytest.raises(
        ValueError, match=r"missing: features\.3\.weight; layers.* features\.3\.base_layer"
    ):
        load_backbone(BasicCNN(), weights(state))


def test_compiled_parts_of_a_resnet_in_a_lightning_module(tmp_path):
    original, module = trained(resnet10()), nn.Module()
    wrapped = trained(resnet10())
    for name in ("layer1", "layer2", "layer3", "layer4"):
        setattr(wrapped, name, compiled(checkpoint_wrapper(getattr(wrapped, name))))
    module.backbone = nn.Sequential(*list(wrapped.children())[:-1])  # numbered, as with lightly
    content = {"state_dict": module.state_dict(), "pytorch-lightning_version": "2.6"}
    report = check(resnet10(), saved(tmp_path / "x.ckpt", content), original)
    assert report.prefix == "backbone."
