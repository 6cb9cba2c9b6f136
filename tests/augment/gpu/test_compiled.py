"""The compiled graph against the function that it is compiled from, and on a GPU."""

import shutil
from dataclasses import replace

import pytest
import torch
from helpers.photometry import (
    EVERYTHING,
    NOTHING,
    PUBLISHED,
    ROUNDING,
    SPECS,
    count_apart,
    denormalised,
    draw,
    in_loader_memory,
    may_be_apart,
    noise,
    normalised,
    pack,
)

from sslortho.augment.draws.photometric import (
    BLUR_COLUMN,
    GRAYSCALE_COLUMN,
    JITTER_COLUMN,
    SOLARISE_COLUMN,
)
from sslortho.augment.gpu.compiled import compiled_renderer
from sslortho.augment.gpu.photometric import render_photometric_batched
from sslortho.augment.reference.photometric import render_photometric


@pytest.mark.slow
@pytest.mark.parametrize("spec", [EVERYTHING, *PUBLISHED.values()], ids=["everything", *PUBLISHED])
def test_the_compiled_graph_is_the_function(spec):
    images, parameters = in_loader_memory(noise(6)), pack(draw(spec, 6))
    result = compiled_renderer(spec, channels_last=True, backend="aot_eager")(images, parameters)
    expected = render_photometric_batched(images, parameters, spec, channels_last=True)
    assert result.stride() == expected.stride()
    assert count_apart(result, expected, 1e-5) <= may_be_apart(spec)


@pytest.mark.slow
def test_a_renderer_is_compiled_once_and_more_than_eight_can_live_together():
    """Torch stops at 8 graphs for one function, and specifications must not share that number."""
    images = noise(2, 4, 4)
    specs = [replace(NOTHING, mean=(0.1 * i, 0.0, 0.0)) for i in range(10)]
    for spec in specs:
        view = compiled_renderer(spec, backend="aot_eager")(images, pack(draw(spec, 2)))
        assert torch.equal(view, normalised(images, spec))
    assert compiled_renderer(specs[0]) is compiled_renderer(replace(specs[0]))
    assert compiled_renderer(specs[0]) is not compiled_renderer(specs[1])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:Skipping serialization of:UserWarning")  # torch 2.6 of itself
def test_inductors_kernels_are_the_function():
    spec = replace(EVERYTHING, blur_taps=3)
    images, parameters = in_loader_memory(noise(16)), pack(draw(spec, 16))
    result = compiled_renderer(spec, channels_last=True)(images, parameters)
    expected = render_photometric_batched(images, parameters, spec)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert count_apart(denormalised(result, spec), denormalised(expected, spec)) <= may_be_apart(
        spec
    )
    off = parameters.clone()
    off[:, [JITTER_COLUMN, GRAYSCALE_COLUMN, BLUR_COLUMN, SOLARISE_COLUMN]] = 0
    # normalisation may be rounded otherwise (a division by a constant as a product)
    assert (
        count_apart(
            compiled_renderer(spec, channels_last=True)(images, off), normalised(images, spec), 1e-6
        )
        == 0
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore::UserWarning:torch.*")
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_on_a_gpu_the_compiled_views_are_those_of_the_cpu(spec):
    images, parameters = in_loader_memory(noise(300, 64, 64)), draw(spec, 300)
    renderer = compiled_renderer(spec, channels_last=True)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")  # must not matter
    try:
        result = renderer(images.cuda(), pack(parameters).cuda()).cpu()
    finally:
        torch.set_float32_matmul_precision(precision)
    expected = denormalised(render_photometric(images, parameters, spec), spec)
    # of 3,686,400
    limit = 100 if spec.solarise_p else 0
    assert count_apart(denormalised(result, spec), expected, 3 * ROUNDING) <= limit


def no_compiler(graph, inputs):
    raise RuntimeError("Failed to find C compiler. Please specify via CC")


def test_where_nothing_compiles_views_are_rendered_all_the_same():
    spec = replace(EVERYTHING, mean=(0.123, 0.0, 0.0))  # compiled by no other test
    images, parameters = noise(3, 8, 8), pack(draw(spec, 3))
    renderer = compiled_renderer(spec, backend=no_compiler)
    with pytest.warns(UserWarning, match=r"RuntimeError: Failed to find C compiler.* needs Triton"):
        first = renderer(images, parameters)
    assert torch.equal(first, render_photometric_batched(images, parameters, spec))
    assert torch.equal(renderer(images, parameters), first)  # a second warning would be an error
