"""The graph of fixed shapes, uncompiled, against the reference and torchvision's operations."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from helpers.photometry import (
    EVERYTHING,
    FIRST,
    NOTHING,
    PUBLISHED,
    ROUNDING,
    SECOND,
    SPECS,
    STRONG,
    adjusted_by_torchvision,
    count_apart,
    denormalised,
    draw,
    in_loader_memory,
    may_be_apart,
    noise,
    normalised,
    pack,
)
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torchvision.transforms import functional as tv

from sslortho.augment import ViewSpec
from sslortho.augment.draws.photometric import PARAMETERS, PhotometricDraw
from sslortho.augment.gpu.photometric import render_photometric_batched, turn_hue
from sslortho.augment.reference.photometric import render_photometric

SWITCHES = ("jitter", "grayscale", "blur", "solarise")


def without(drawn: PhotometricDraw, *switches: str) -> PhotometricDraw:
    return replace(drawn, **{name: np.zeros_like(getattr(drawn, name)) for name in switches})


def render(images: torch.Tensor, drawn: PhotometricDraw, spec: ViewSpec) -> torch.Tensor:
    return render_photometric_batched(images, pack(drawn), spec)


def torchvision_views(images: torch.Tensor, drawn: PhotometricDraw, spec: ViewSpec) -> torch.Tensor:
    return torch.stack(
        [adjusted_by_torchvision(x.float() / 255, drawn, i, spec) for i, x in enumerate(images)]
    )


@pytest.mark.parametrize("spec", PUBLISHED.values(), ids=PUBLISHED.keys())
def test_views_are_those_of_the_reference(spec):
    for seed in range(3):
        images, parameters = noise(64, 28, 36, seed), draw(spec, 64, seed)
        expected = denormalised(render_photometric(images, parameters, spec), spec)
        result = denormalised(render(images, parameters, spec), spec)
        assert count_apart(result, expected) <= may_be_apart(spec)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_views_are_torchvisions_image_by_image(spec):
    images, parameters = noise(80), draw(spec, 80, seed=1)
    result = denormalised(render(images, parameters, spec), spec)
    # torchvision's hue alone is 2e-6 from exact, and factors up to 2 make more of it
    limit = 3 * ROUNDING
    expected = torchvision_views(images, parameters, spec)
    assert count_apart(result, expected, limit) <= may_be_apart(spec)


@pytest.mark.parametrize("spec", [STRONG, FIRST], ids=["strong", "first"])
def test_every_order_of_the_jitter_is_torchvisions(spec):
    images, orders = noise(24), np.array(list(permutations(range(4))))
    parameters = replace(draw(spec, 24), order=orders, jitter=np.full(24, True))
    expected = torchvision_views(images, parameters, spec)
    assert (
        count_apart(denormalised(render(images, parameters, spec), spec), expected, 3 * ROUNDING)
        == 0
    )
    # and the order matters: with the reverse one the picture is another
    reverse = replace(parameters, order=orders[:, ::-1])
    others = denormalised(render(images, reverse, spec), spec)
    assert ((others - expected).abs().amax(dim=(1, 2, 3)) > 1e-3).sum() >= 20


STRENGTHS = ("brightness", "contrast", "saturation", "hue")


@pytest.mark.parametrize("name", STRENGTHS)
def test_an_operation_without_strength_is_left_out(name):
    spec = replace(STRONG, **{name: 0.0}, blur_p=0.0)
    images, parameters = noise(24), draw(spec, 24)
    expected = torchvision_views(images, parameters, spec)
    assert (
        count_apart(denormalised(render(images, parameters, spec), spec), expected, 3 * ROUNDING)
        == 0
    )


@pytest.mark.parametrize("name", STRENGTHS)
def test_a_jitter_of_one_operation_is_torchvisions(name):
    others = {other: 0.0 for other in STRENGTHS if other != name}
    spec = replace(STRONG, **others, blur_p=0.0)
    images, parameters = noise(24), draw(spec, 24)
    expected = torchvision_views(images, parameters, spec)
    assert count_apart(denormalised(render(images, parameters, spec), spec), expected) == 0


def every_colour(steps: int = 9) -> torch.Tensor:
    """uint8 (1, 3, h, w): greys, all ties of two channels, all orders, black, white, primaries."""
    levels = torch.linspace(0, 255, steps).round()
    colours = torch.cartesian_prod(levels, levels, levels).T.to(torch.uint8)
    return colours.reshape(1, 3, steps**2, steps)


PICTURES = {
    "black": torch.zeros(1, 3, 16, 16, dtype=torch.uint8),
    "white": torch.full((1, 3, 16, 16), 255, dtype=torch.uint8),
    "one grey": torch.full((1, 3, 16, 16), 77, dtype=torch.uint8),
    "all greys": torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(-1, 3, -1, -1),
    "red": torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1).expand(-1, -1, 16, 16),
    "every colour": every_colour(),
}


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES.keys())
@pytest.mark.parametrize("spec", [STRONG, EVERYTHING], ids=["strong", "everything"])
def test_a_picture_without_hue_or_with_ties_is_torchvisions(picture, spec):
    spec = replace(spec, blur_taps=9, solarise_p=0.0)
    images, parameters = picture.expand(24, -1, -1, -1), draw(spec, 24)
    result = denormalised(render(images, parameters, spec), spec)
    assert count_apart(result, torchvision_views(images, parameters, spec), 3 * ROUNDING) == 0


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.03, 1 / 3, 0.5])
def test_hue_of_every_colour_is_torchvisions(shift):
    images = every_colour(17).float() / 255
    r, g, b = images.unbind(1)
    result = torch.stack(turn_hue((r, g, b), torch.tensor(shift).view(1, 1, 1)), dim=1)
    torch.testing.assert_close(result, tv.adjust_hue(images, shift), rtol=0, atol=ROUNDING)


def test_switches_off_leave_the_pixels_bit_by_bit():
    spec = replace(EVERYTHING, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5)
    images, parameters = noise(32), draw(spec, 32)
    off = without(parameters, *SWITCHES)
    assert torch.equal(render(images, off, spec), normalised(images, spec))


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_touches_its_own_samples_alone(name):
    images, parameters = noise(32), draw(EVERYTHING, 32)
    one = without(parameters, *(other for other in SWITCHES if other != name))
    changed = (render(images, one, EVERYTHING) != normalised(images, EVERYTHING)).any(dim=(1, 2, 3))
    on = getattr(one, name)
    assert 0 < on.sum() < 32
    np.testing.assert_array_equal(changed.numpy(), on)


def test_a_specification_without_photometry_is_plain_normalisation():
    images = noise(5)
    assert torch.equal(render(images, draw(NOTHING, 5), NOTHING), normalised(images, NOTHING))


@pytest.mark.parametrize("spec", [EVERYTHING, SECOND], ids=["everything", "second"])
def test_a_sample_does_not_depend_on_the_others(spec):
    images, parameters = noise(24), pack(draw(spec, 24))
    whole = render_photometric_batched(images, parameters, spec)
    order = torch.from_numpy(np.random.default_rng(0).permutation(24))
    shuffled = render_photometric_batched(images[order], parameters[order], spec)
    assert torch.equal(shuffled, whole[order])
    for i in range(24):
        alone = render_photometric_batched(images[i : i + 1], parameters[i : i + 1], spec)
        assert count_apart(alone[0], whole[i], 1e-5) <= may_be_apart(spec)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("spec", [EVERYTHING, NOTHING], ids=["everything", "nothing"])
def test_memory_formats_change_no_value(spec, channels_last):
    images, parameters = noise(12), pack(draw(spec, 12))
    expected = render_photometric_batched(images, parameters, spec)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    for same in (images, in_loader_memory(images), images.float(), images.half()):
        before = same.clone()
        result = render_photometric_batched(same, parameters, spec, channels_last=channels_last)
        assert result.dtype == torch.float32
        assert result.is_contiguous(memory_format=memory_format)
        assert torch.equal(result, expected)
        assert torch.equal(same, before)


def test_a_table_of_another_length_is_named():
    parameters = pack(draw(EVERYTHING, 4))
    with pytest.raises(ValueError, match=r"parameters of shape \(4, 13\) must be \(5, 13\)"):
        render_photometric_batched(noise(5), parameters, EVERYTHING)
    with pytest.raises(ValueError, match=r"\(4, 12\)"):
        render_photometric_batched(noise(4), parameters[:, :12], EVERYTHING)


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_the_graph_has_fixed_shapes_and_waits_for_nobody(spec):
    """Fake tensors have no values: what asks for one (a mask's length, an item) raises.

    Nor may there be a product of matrices or a convolution, which the process's TensorFloat-32
    settings reach, nor a constant that is copied from the host at every call.
    """
    with FakeTensorMode():
        images = torch.empty(4, 3, 40, 48, dtype=torch.uint8)
        parameters = torch.empty(4, PARAMETERS)
        graph = make_fx(lambda x, p: render_photometric_batched(x, p, spec))(images, parameters)
    targets = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    names = [str(target) for target in targets if isinstance(target, torch._ops.OpOverload)]
    assert "aten.stack.default" in names
    banned = ("mm", "conv", "nonzero", "item", "scalar_dense", "lift", "masked", "index", "copy_")
    assert [name for name in names if any(word in name for word in banned)] == []
    assert [node for node in graph.graph.nodes if node.op == "get_attr"] == []
    (output,) = graph.graph.output_node().args
    assert output.meta["val"].shape == (4, 3, 40, 48)


@pytest.mark.slow
def test_there_is_no_graph_break():
    images, parameters = noise(4), pack(draw(EVERYTHING, 4))
    report = torch._dynamo.explain(render_photometric_batched)(images, parameters, EVERYTHING)
    assert (report.graph_count, report.graph_break_count) == (1, 0)
