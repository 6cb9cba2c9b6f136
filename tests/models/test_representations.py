import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from sslortho.models.cifar_resnet import BasicCNN
from sslortho.models.representations import channel_cosine, watch_representations


def literal_cosine(maps, samples=10):
    """Sample by sample, pair by pair."""
    values = [
        cosine_similarity(a.flatten(), b.flatten(), dim=0).abs().item()
        for channels in maps.detach().float()[:samples]
        for a, b in itertools.combinations(channels, 2)
    ]
    return sum(values) / len(values)


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize("shape", [(4, 6, 5, 3), (1, 2, 2, 1), (3, 5, 7), (2, 3, 2, 2, 2)], ids=str)
def test_channel_cosine_is_the_literal_one(shape):
    maps = images(*shape) + 0.5
    assert channel_cosine(maps).item() == pytest.approx(literal_cosine(maps), rel=1e-5)


def test_a_map_of_zeros_has_cosine_zero_with_every_other():
    maps = images(2, 4, 3, 3)
    maps[0, 1] = maps[1, 2] = maps[1, 3] = 0
    assert channel_cosine(maps).item() == pytest.approx(literal_cosine(maps), rel=1e-5)
    assert channel_cosine(torch.zeros(2, 4, 3, 3)).item() == 0


def test_equal_maps_have_cosine_one_whatever_sign_and_scale():
    maps = images(2, 1, 4, 4) * torch.tensor([1.0, -3.0, 1e-3]).view(1, 3, 1, 1)
    assert channel_cosine(maps).item() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_measured_in_float32_inside_autocast_too(dtype):
    maps = images(2, 8, 16, 16).mul(50).to(dtype)  # squares of a map sum to more than 65504
    with torch.autocast("cpu", dtype=torch.bfloat16):
        measured = channel_cosine(maps)
    assert measured.dtype == torch.float32
    assert measured.item() == pytest.approx(literal_cosine(maps), rel=1e-5)


@pytest.mark.slow
def test_convolutions_before_and_activations_after_their_norm():
    model, x = BasicCNN(10).train(), images(12, 3, 32, 32)
    with watch_representations(model) as watched:
        model(x)
    expected, out = {}, x
    for number, layer in enumerate(BasicCNN(10).features):
        layer.load_state_dict(model.features[number].state_dict())
        out = layer(out.clone())
        if not isinstance(layer, nn.BatchNorm2d):
            expected[f"features.{number}"] = literal_cosine(out)
    assert watched.cosines() == pytest.approx(expected, rel=1e-5)


def test_an_activation_in_place_does_not_reach_the_convolution_before_it():
    model, x = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True)), images(3, 2, 6, 6)
    with watch_representations(model) as watched, torch.no_grad():
        model(x)
    out = model[0](x)
    expected = {"0": literal_cosine(out), "1": literal_cosine(out.relu())}
    assert watched.cosines() == pytest.approx(expected, rel=1e-5)


def test_the_first_samples_of_the_first_call():
    model = nn.Conv2d(2, 4, 3)
    first, second = images(5, 2, 6, 6), images(5, 2, 6, 6, seed=1)
    with watch_representations(model, samples=3) as watched:
        model(first)
        model(second)
    assert watched.cosines() == {"": pytest.approx(literal_cosine(model(first), 3), rel=1e-5)}


def test_what_has_nothing_to_compare_is_left_out():
    model = nn.Sequential(
        nn.Conv2d(2, 1, 3),  # one channel
        nn.Conv2d(1, 4, 4),  # one pixel
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4, 6),
        nn.ReLU(),
    )
    with watch_representations(model) as watched:
        model(images(5, 2, 6, 6))
    assert watched.cosines() == {}


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(2, 4, 3), (3, 2, 8)),
        (nn.Conv3d(2, 4, 2), (3, 2, 4, 4, 4)),
        (nn.Conv2d(4, 8, 3, groups=4), (3, 4, 6, 6)),
        (nn.ConvTranspose2d(2, 4, 3), (3, 2, 6, 6)),
        (nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last), (3, 2, 6, 6)),
    ],
    ids=["1d", "3d", "grouped", "transposed", "channels_last"],
)
def test_convolutions_of_every_kind(layer, shape):
    x = images(*shape)
    with watch_representations(layer) as watched:
        layer(x)
    assert watched.cosines() == {"": pytest.approx(literal_cosine(layer(x)), rel=1e-5)}


def test_hooks_are_there_only_within():
    model = BasicCNN()
    with watch_representations(model):
        assert hooks(model) == 6
    assert hooks(model) == 0

    def fail():
        with watch_representations(model):
            raise MemoryError

    with pytest.raises(MemoryError):
        fail()
    assert hooks(model) == 0


def test_only_what_learns():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
    model[0].requires_grad_(False)
    with watch_representations(model, learning_only=True) as watched:
        model(images(3, 2, 8, 8))
    assert list(watched.cosines()) == ["2", "3"]


def test_a_compiled_model_is_seen_and_not_compiled_again():
    compilations = []

    def backend(graph, inputs):
        compilations.append(graph)
        return graph.forward

    model, x = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()), images(3, 2, 6, 6)
    with watch_representations(model) as expected:
        model(x)
    for compiled in (torch.compile(model, backend=backend), model):
        if compiled is model:
            model.compile(backend=backend)
        compilations.clear()
        compiled(x)
        once = len(compilations)  # torch 2.6 compiles no second model after a reset
        with watch_representations(compiled) as watched:
            compiled(x)
        compiled(x)
        assert watched.cosines() == expected.cosines()
        assert len(compilations) == once <= 1
        torch.compiler.reset()


def test_no_samples_are_an_error():
    with pytest.raises(ValueError, match="samples=0 must be 1 or more"):
        watch_representations(nn.Identity(), samples=0).__enter__()
