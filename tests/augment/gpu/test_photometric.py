import shutil
from dataclasses import fields, replace
from itertools import permutations

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torchvision.transforms import functional as tv

from sslortho.augment import VIEWS, ViewSpec
from sslortho.augment.reference.photometric import (
    BLUR_COLUMN,
    BRIGHTNESS,
    CONTRAST,
    FACTOR_COLUMN,
    GRAYSCALE_COLUMN,
    HUE,
    JITTER_COLUMN,
    ORDER_COLUMN,
    PARAMETERS,
    PHOTOMETRIC_DRAWS,
    SATURATION,
    SIGMA_COLUMN,
    SOLARISE_COLUMN,
    PhotometricDraw,
    draw_photometric,
    pack_photometric,
    render_photometric,
)
from sslortho.augment.gpu.photometric import (
    compiled_renderer,
    render_photometric_batched,
    turn_hue,
)

SPECS = {
    f"{name} {number}": spec
    for name, make in VIEWS.items()
    for number, spec in enumerate(make(), start=1)
}
FIRST, SECOND = VIEWS["barlow_twins"]()
EVERYTHING = replace(FIRST, jitter_p=0.5, grayscale_p=0.5, blur_p=0.5, solarise_p=0.5, blur_taps=9)
NOTHING = replace(FIRST, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
STRONG = replace(
    FIRST,
    jitter_p=1.0,
    brightness=1.0,
    contrast=1.0,
    saturation=1.0,
    hue=0.5,
    grayscale_p=0.0,
    blur_p=0.5,
)
SWITCHES = ("jitter", "grayscale", "blur", "solarise")

VALUES = 2e-6
"""Most that two ways to round may lie apart, of values from 0 to 1."""


def noise(count: int, height: int = 16, width: int = 20, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def draw(spec: ViewSpec, count: int, seed: int = 0) -> PhotometricDraw:
    return draw_photometric(spec, np.random.default_rng(seed).random((count, PHOTOMETRIC_DRAWS)))


def table(draw: PhotometricDraw) -> torch.Tensor:
    return torch.from_numpy(pack_photometric(draw))


def without(draw: PhotometricDraw, *switches: str) -> PhotometricDraw:
    return replace(draw, **{name: np.zeros_like(getattr(draw, name)) for name in switches})


def values(views: torch.Tensor, spec: ViewSpec) -> torch.Tensor:
    """From 0 to 1 again."""
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (spec.mean, spec.std))
    return views * std + mean


def plain(images: torch.Tensor, spec: ViewSpec) -> torch.Tensor:
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (spec.mean, spec.std))
    return (images.float() / 255 - mean) / std


def render(images: torch.Tensor, draw: PhotometricDraw, spec: ViewSpec) -> torch.Tensor:
    return render_photometric_batched(images, table(draw), spec)


def torchvision_view(
    image: torch.Tensor, draw: PhotometricDraw, i: int, spec: ViewSpec
) -> torch.Tensor:
    """Sample i by torchvision's operations, not normalised."""
    x = image.float() / 255
    adjust = {
        BRIGHTNESS: lambda x: tv.adjust_brightness(x, float(draw.brightness[i])),
        CONTRAST: lambda x: tv.adjust_contrast(x, float(draw.contrast[i])),
        SATURATION: lambda x: tv.adjust_saturation(x, float(draw.saturation[i])),
        HUE: lambda x: tv.adjust_hue(x, float(draw.hue[i])),
    }
    if draw.jitter[i]:
        for code in draw.order[i]:
            x = adjust[int(code)](x)
    if draw.grayscale[i]:
        x = tv.rgb_to_grayscale(x, num_output_channels=3)
    if draw.blur[i]:
        x = tv.gaussian_blur(x, [spec.blur_taps] * 2, [float(draw.sigma[i])] * 2)
    if draw.solarise[i]:
        x = tv.solarize(x, spec.solarise_threshold)
    return x


def torchvision_views(images: torch.Tensor, draw: PhotometricDraw, spec: ViewSpec) -> torch.Tensor:
    return torch.stack([torchvision_view(x, draw, i, spec) for i, x in enumerate(images)])


def apart(ours: torch.Tensor, theirs: torch.Tensor, limit: float = VALUES) -> int:
    return int(((ours - theirs).abs() > limit).sum())


def may_be_apart(spec: ViewSpec) -> int:
    """A value within rounding of the threshold may be inverted by one and not by the other."""
    return 3 if spec.solarise_p else 0


def test_the_table_is_the_fields_of_the_draw_in_their_order():
    parameters = draw(EVERYTHING, 50)
    columns = np.column_stack([getattr(parameters, field.name) for field in fields(parameters)])
    result = pack_photometric(parameters)
    assert result.dtype == np.float32
    assert result.shape == (50, PARAMETERS)
    np.testing.assert_array_equal(result, columns.astype(np.float32))


COLUMNS = {
    "jitter": JITTER_COLUMN,
    "brightness": FACTOR_COLUMN + BRIGHTNESS,
    "contrast": FACTOR_COLUMN + CONTRAST,
    "saturation": FACTOR_COLUMN + SATURATION,
    "hue": FACTOR_COLUMN + HUE,
    "order": slice(ORDER_COLUMN, ORDER_COLUMN + 4),
    "grayscale": GRAYSCALE_COLUMN,
    "blur": BLUR_COLUMN,
    "sigma": SIGMA_COLUMN,
    "solarise": SOLARISE_COLUMN,
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_named_column_holds_its_field(name):
    parameters = draw(EVERYTHING, 50)
    expected = getattr(parameters, name).astype(np.float32)
    np.testing.assert_array_equal(pack_photometric(parameters)[:, COLUMNS[name]], expected)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_views_are_those_of_the_reference(spec):
    for seed in range(3):
        images, parameters = noise(64, 28, 36, seed), draw(spec, 64, seed)
        expected = values(render_photometric(images, parameters, spec), spec)
        result = values(render(images, parameters, spec), spec)
        assert apart(result, expected) <= may_be_apart(spec)


ALL = {**SPECS, "everything": EVERYTHING, "nothing": NOTHING, "strong": STRONG}


@pytest.mark.parametrize("spec", ALL.values(), ids=ALL.keys())
def test_views_are_torchvisions_image_by_image(spec):
    images, parameters = noise(80), draw(spec, 80, seed=1)
    result = values(render(images, parameters, spec), spec)
    # torchvision's hue alone is 2e-6 from exact, and factors up to 2 make more of it
    limit = 3 * VALUES
    expected = torchvision_views(images, parameters, spec)
    assert apart(result, expected, limit) <= may_be_apart(spec)


@pytest.mark.parametrize("spec", [STRONG, FIRST], ids=["strong", "first"])
def test_every_order_of_the_jitter_is_torchvisions(spec):
    images, orders = noise(24), np.array(list(permutations(range(4))))
    parameters = replace(draw(spec, 24), order=orders, jitter=np.full(24, True))
    expected = torchvision_views(images, parameters, spec)
    assert apart(values(render(images, parameters, spec), spec), expected, 3 * VALUES) == 0
    # and the order matters: with the reverse one the picture is another
    reverse = replace(parameters, order=orders[:, ::-1])
    others = values(render(images, reverse, spec), spec)
    assert ((others - expected).abs().amax(dim=(1, 2, 3)) > 1e-3).sum() >= 20


STRENGTHS = ("brightness", "contrast", "saturation", "hue")


@pytest.mark.parametrize("name", STRENGTHS)
def test_an_operation_without_strength_is_left_out(name):
    spec = replace(STRONG, **{name: 0.0}, blur_p=0.0)
    images, parameters = noise(24), draw(spec, 24)
    expected = torchvision_views(images, parameters, spec)
    assert apart(values(render(images, parameters, spec), spec), expected, 3 * VALUES) == 0


@pytest.mark.parametrize("name", STRENGTHS)
def test_a_jitter_of_one_operation_is_torchvisions(name):
    others = {other: 0.0 for other in STRENGTHS if other != name}
    spec = replace(STRONG, **others, blur_p=0.0)
    images, parameters = noise(24), draw(spec, 24)
    expected = torchvision_views(images, parameters, spec)
    assert apart(values(render(images, parameters, spec), spec), expected) == 0


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
    result = values(render(images, parameters, spec), spec)
    assert apart(result, torchvision_views(images, parameters, spec), 3 * VALUES) == 0


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.03, 1 / 3, 0.5])
def test_hue_of_every_colour_is_torchvisions(shift):
    images = every_colour(17).float() / 255
    r, g, b = images.unbind(1)
    result = torch.stack(turn_hue((r, g, b), torch.tensor(shift).view(1, 1, 1)), dim=1)
    torch.testing.assert_close(result, tv.adjust_hue(images, shift), rtol=0, atol=VALUES)


def test_switches_off_leave_the_pixels_bit_by_bit():
    spec = replace(EVERYTHING, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5)
    images, parameters = noise(32), draw(spec, 32)
    off = without(parameters, *SWITCHES)
    assert torch.equal(render(images, off, spec), plain(images, spec))


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_touches_its_own_samples_alone(name):
    images, parameters = noise(32), draw(EVERYTHING, 32)
    one = without(parameters, *(other for other in SWITCHES if other != name))
    changed = (render(images, one, EVERYTHING) != plain(images, EVERYTHING)).any(dim=(1, 2, 3))
    on = getattr(one, name)
    assert 0 < on.sum() < 32
    np.testing.assert_array_equal(changed.numpy(), on)


def test_a_specification_without_photometry_is_plain_normalisation():
    images = noise(5)
    assert torch.equal(render(images, draw(NOTHING, 5), NOTHING), plain(images, NOTHING))


@pytest.mark.parametrize("spec", [EVERYTHING, SECOND], ids=["everything", "second"])
def test_a_sample_does_not_depend_on_the_others(spec):
    images, parameters = noise(24), table(draw(spec, 24))
    whole = render_photometric_batched(images, parameters, spec)
    order = torch.from_numpy(np.random.default_rng(0).permutation(24))
    shuffled = render_photometric_batched(images[order], parameters[order], spec)
    assert torch.equal(shuffled, whole[order])
    for i in range(24):
        alone = render_photometric_batched(images[i : i + 1], parameters[i : i + 1], spec)
        assert apart(alone[0], whole[i], 1e-5) <= may_be_apart(spec)


def in_loader_memory(images: torch.Tensor) -> torch.Tensor:
    """The same images as the second of two views in (batch, views, h, w, 3)."""
    memory = torch.zeros(len(images), 2, *images.shape[2:], 3, dtype=images.dtype)
    memory[:, 1] = images.permute(0, 2, 3, 1)
    return memory[:, 1].permute(0, 3, 1, 2)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("spec", [EVERYTHING, NOTHING], ids=["everything", "nothing"])
def test_memory_formats_change_no_value(spec, channels_last):
    images, parameters = noise(12), table(draw(spec, 12))
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
    parameters = table(draw(EVERYTHING, 4))
    with pytest.raises(ValueError, match=r"parameters of shape \(4, 13\) must be \(5, 13\)"):
        render_photometric_batched(noise(5), parameters, EVERYTHING)
    with pytest.raises(ValueError, match=r"\(4, 12\)"):
        render_photometric_batched(noise(4), parameters[:, :12], EVERYTHING)


@pytest.mark.parametrize("spec", ALL.values(), ids=ALL.keys())
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


def test_there_is_no_graph_break():
    images, parameters = noise(4), table(draw(EVERYTHING, 4))
    report = torch._dynamo.explain(render_photometric_batched)(images, parameters, EVERYTHING)
    assert (report.graph_count, report.graph_break_count) == (1, 0)


@pytest.mark.parametrize("spec", [EVERYTHING, *SPECS.values()], ids=["everything", *SPECS])
def test_the_compiled_graph_is_the_function(spec):
    images, parameters = in_loader_memory(noise(6)), table(draw(spec, 6))
    result = compiled_renderer(spec, channels_last=True, backend="aot_eager")(images, parameters)
    expected = render_photometric_batched(images, parameters, spec, channels_last=True)
    assert result.stride() == expected.stride()
    assert apart(result, expected, 1e-5) <= may_be_apart(spec)


def test_a_renderer_is_compiled_once_and_more_than_eight_can_live_together():
    """Torch stops at 8 graphs for one function, and specifications must not share that number."""
    images = noise(2, 4, 4)
    specs = [replace(NOTHING, mean=(0.1 * i, 0.0, 0.0)) for i in range(10)]
    for spec in specs:
        view = compiled_renderer(spec, backend="aot_eager")(images, table(draw(spec, 2)))
        assert torch.equal(view, plain(images, spec))
    assert compiled_renderer(specs[0]) is compiled_renderer(replace(specs[0]))
    assert compiled_renderer(specs[0]) is not compiled_renderer(specs[1])


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:Skipping serialization of:UserWarning")  # torch 2.6 of itself
def test_inductors_kernels_are_the_function():
    spec = replace(EVERYTHING, blur_taps=3)
    images, parameters = in_loader_memory(noise(16)), table(draw(spec, 16))
    result = compiled_renderer(spec, channels_last=True)(images, parameters)
    expected = render_photometric_batched(images, parameters, spec)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert apart(values(result, spec), values(expected, spec)) <= may_be_apart(spec)
    off = parameters.clone()
    off[:, [JITTER_COLUMN, GRAYSCALE_COLUMN, BLUR_COLUMN, SOLARISE_COLUMN]] = 0
    # normalisation may be rounded otherwise (a division by a constant as a product)
    assert (
        apart(compiled_renderer(spec, channels_last=True)(images, off), plain(images, spec), 1e-6)
        == 0
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore::UserWarning:torch.*")
@pytest.mark.parametrize("spec", ALL.values(), ids=ALL.keys())
def test_on_a_gpu_the_compiled_views_are_those_of_the_cpu(spec):
    images, parameters = in_loader_memory(noise(300, 64, 64)), draw(spec, 300)
    renderer = compiled_renderer(spec, channels_last=True)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")  # must not matter
    try:
        result = renderer(images.cuda(), table(parameters).cuda()).cpu()
    finally:
        torch.set_float32_matmul_precision(precision)
    expected = values(render_photometric(images, parameters, spec), spec)
    # of 3,686,400
    limit = 100 if spec.solarise_p else 0
    assert apart(values(result, spec), expected, 3 * VALUES) <= limit
