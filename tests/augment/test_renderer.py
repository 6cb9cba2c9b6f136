"""Renderers of batches: determinism, independence, memory formats."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from sslortho.augment import (
    EvaluationRenderer,
    EvaluationSpec,
    ViewRenderer,
    ViewSpec,
    create_views,
)
from sslortho.augment.reference.geometry import crop_and_resize

SEED, EPOCH, COUNT, SIDE = 11, 4, 24, 32
PAIR = tuple(
    replace(view, blur_p=0.5, blur_taps=9) for view in create_views("barlow_twins_small", SIDE)
)
RENDERER = ViewRenderer(PAIR, seed=SEED)
INDICES = np.arange(100, 100 + COUNT)
PLAIN = ViewSpec(
    crop_size=SIDE,
    crop_scale=(1.0, 1.0),
    crop_ratio=(1.0, 1.0),
    flip_p=0.0,
    jitter_p=0.0,
    grayscale_p=0.0,
    blur_p=0.0,
)
ORDER = np.random.default_rng(0).permutation(COUNT)
COMPOSITIONS = {
    "reversed": [np.arange(COUNT)[::-1]],
    "shuffled": [ORDER],
    "some": [ORDER[:5]],
    "one by one": list(np.arange(COUNT)[:, None]),
    "two halves": [np.arange(COUNT // 2), np.arange(COUNT // 2, COUNT)],
    "one twice": [np.array([3, 3])],
}


def noise(count: int = COUNT, height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def same_draws(ours: object, theirs: object, chosen: np.ndarray) -> bool:
    return all(
        np.array_equal(getattr(ours, field.name), getattr(theirs, field.name)[chosen])
        for field in fields(ours)
    )


@pytest.mark.parametrize("parts", COMPOSITIONS.values(), ids=COMPOSITIONS.keys())
@pytest.mark.parametrize("view", [0, 1])
def test_draws_do_not_depend_on_the_batch(view, parts):
    sizes = np.arange(40, 40 + COUNT), np.arange(90, 90 - COUNT, -1)
    crops = RENDERER.draw_crops(view, INDICES, EPOCH, *sizes)
    colours = RENDERER.draw_photometric(view, INDICES, EPOCH)
    for part in parts:
        part_sizes = sizes[0][part], sizes[1][part]
        part_crops = RENDERER.draw_crops(view, INDICES[part], EPOCH, *part_sizes)
        assert same_draws(part_crops, crops, part)
        assert same_draws(RENDERER.draw_photometric(view, INDICES[part], EPOCH), colours, part)


@pytest.mark.parametrize("parts", COMPOSITIONS.values(), ids=COMPOSITIONS.keys())
def test_views_do_not_depend_on_the_batch(parts):
    images = noise()
    whole = RENDERER.render(images, INDICES, EPOCH)
    for part in parts:
        views = RENDERER.render(images[torch.from_numpy(part.copy())], INDICES[part], EPOCH)
        for ours, theirs in zip(views, whole, strict=True):
            # matrix products of other shapes may round otherwise: one value in a thousand may
            # fall to the other side of a grey level or of the threshold of solarisation
            apart = (ours - theirs[torch.from_numpy(part.copy())]).abs() > 1e-4
            assert apart.float().mean() < 1e-3


def test_the_same_call_gives_the_same_bits():
    images = noise()
    first = RENDERER.render(images, INDICES, EPOCH)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - the legacy state must not matter
    second = ViewRenderer(PAIR, seed=SEED).render(images.clone(), INDICES, EPOCH)
    for ours, theirs in zip(first, second, strict=True):
        assert torch.equal(ours, theirs)


def differing_samples(ours: torch.Tensor, theirs: torch.Tensor) -> int:
    return int(((ours - theirs).abs().amax(dim=(1, 2, 3)) > 0.05).sum())


CHANGES = {
    "epoch": lambda images: RENDERER.render(images, INDICES, EPOCH + 1),
    "seed": lambda images: ViewRenderer(PAIR, seed=SEED + 1).render(images, INDICES, EPOCH),
    "index": lambda images: RENDERER.render(images, INDICES + COUNT, EPOCH),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_view_changes_with_epoch_seed_and_index(change):
    images = noise()
    changed = change(images)
    for ours, theirs in zip(RENDERER.render(images, INDICES, EPOCH), changed, strict=True):
        assert differing_samples(ours, theirs) == COUNT


STILL = replace(PLAIN, jitter_p=1.0)
MOVING = replace(PLAIN, crop_scale=(0.08, 1.0), crop_ratio=(3 / 4, 4 / 3))


@pytest.mark.parametrize("spec", [STILL, MOVING], ids=["photometry", "geometry"])
def test_photometry_and_geometry_each_change_with_all_that_they_are_drawn_from(spec):
    def render(seed: int, epoch: int, first: int) -> tuple[torch.Tensor, ...]:
        renderer = ViewRenderer((spec, spec), seed=seed)
        return renderer.render(noise(), np.arange(first, first + COUNT), epoch)

    base = render(SEED, EPOCH, 0)
    assert differing_samples(*base) == COUNT
    for other in (render(SEED + 1, EPOCH, 0), render(SEED, 0, 0), render(SEED, EPOCH, COUNT)):
        for ours, theirs in zip(base, other, strict=True):
            assert differing_samples(ours, theirs) == COUNT


def test_views_of_one_specification_differ():
    renderer = ViewRenderer((PAIR[0],) * 3, seed=SEED)
    views = renderer.render(noise(), INDICES, EPOCH)
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        assert differing_samples(views[a], views[b]) == COUNT


def test_the_first_views_stay_when_another_is_added():
    two = RENDERER.render(noise(), INDICES, EPOCH)
    three = ViewRenderer((*PAIR, PAIR[0]), seed=SEED).render(noise(), INDICES, EPOCH)
    assert len(three) == 3
    assert torch.equal(two[0], three[0])
    assert torch.equal(two[1], three[1])


def test_geometry_and_photometry_are_drawn_independently():
    indices = np.arange(5000)
    sizes = np.full(5000, 500)
    for view in (0, 1):
        crops = RENDERER.draw_crops(view, indices, EPOCH, sizes, sizes)
        colours = RENDERER.draw_photometric(view, indices, EPOCH)
        geometry = [crops.top, crops.left, crops.height, crops.width, crops.flip]
        photometry = [colours.brightness, colours.hue, colours.sigma, colours.jitter]
        correlation = np.corrcoef(np.array([*geometry, *photometry], dtype=float))[:5, 5:]
        assert np.abs(correlation).max() < 4 / np.sqrt(5000)


def test_the_two_views_of_a_sample_are_drawn_independently():
    indices = np.arange(5000)
    sizes = np.full(5000, 500)
    tables = []
    for view in (0, 1):
        crops = RENDERER.draw_crops(view, indices, EPOCH, sizes, sizes)
        colours = RENDERER.draw_photometric(view, indices, EPOCH)
        tables += [crops.top, crops.height, crops.flip, colours.brightness, colours.jitter]
    correlation = np.corrcoef(np.array(tables, dtype=float))[:5, 5:]
    assert np.abs(correlation).max() < 4 / np.sqrt(5000)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(SIDE, SIDE), (40, 57)], ids=["square", "wide"])
def test_views_are_float32_of_the_crop_size_in_the_memory_format(channels_last, shape):
    specs = (PAIR[0], replace(PAIR[1], crop_size=24))
    renderer = ViewRenderer(specs, seed=SEED, channels_last=channels_last)
    images = noise(5, *shape)
    before = images.clone()
    views = renderer.render(images, INDICES[:5], EPOCH)
    assert [tuple(view.shape) for view in views] == [(5, 3, SIDE, SIDE), (5, 3, 24, 24)]
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    for view in views:
        assert view.dtype == torch.float32
        assert view.is_contiguous(memory_format=memory_format)
    assert torch.equal(images, before)


def test_channels_last_changes_no_value():
    views = ViewRenderer(PAIR, seed=SEED, channels_last=True).render(noise(), INDICES, EPOCH)
    for ours, theirs in zip(views, RENDERER.render(noise(), INDICES, EPOCH), strict=True):
        assert torch.equal(ours, theirs)


def test_a_view_without_randomness_is_plain_normalisation():
    images = noise()
    (view,) = ViewRenderer((PLAIN,)).render(images, INDICES, EPOCH)
    expected = tv.normalize(images.float() / 255, list(PLAIN.mean), list(PLAIN.std))
    torch.testing.assert_close(view, expected, rtol=0, atol=1e-6)


def test_rendered_geometry_is_the_drawn_box():
    """render hands the sizes of the images, and the box and flip of each sample, to the crop."""
    images = noise(6, 40, 70)
    spec = replace(PLAIN, crop_scale=(0.1, 1.0), crop_ratio=(3 / 4, 4 / 3), flip_p=0.5)
    renderer = ViewRenderer((spec, spec), seed=SEED)
    views = renderer.render(images, INDICES[:6], EPOCH)
    sizes = np.full(6, 40), np.full(6, 70)
    flips = []
    for number, view in enumerate(views):
        draw = renderer.draw_crops(number, INDICES[:6], EPOCH, *sizes)
        flips += draw.flip.tolist()
        for i, image in enumerate(images):
            box = (int(draw.top[i]), int(draw.left[i]), int(draw.height[i]), int(draw.width[i]))
            crop = tv.resized_crop(image.float(), *box, [SIDE, SIDE], InterpolationMode.BICUBIC)
            crop = (tv.hflip(crop) if draw.flip[i] else crop).clamp(0, 255)
            pixels = (view[i] * torch.tensor(spec.std).view(3, 1, 1)) * 255
            pixels = pixels + 255 * torch.tensor(spec.mean).view(3, 1, 1)
            assert (pixels - crop).abs().max() <= 0.5 + 1e-2
    assert len(set(flips)) == 2


def test_finish_of_crops_is_what_render_does_after_cropping():
    spec = replace(PAIR[0], crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_p=0.0)
    renderer = ViewRenderer((spec, spec), seed=SEED)
    images = noise()
    for number, view in enumerate(renderer.render(images, INDICES, EPOCH)):
        assert torch.equal(renderer.finish(number, images, INDICES, EPOCH), view)


EVALUATION = EvaluationSpec(crop_size=SIDE, resize=SIDE)


@pytest.mark.parametrize("channels_last", [False, True])
def test_evaluation_at_native_size_is_plain_normalisation(channels_last):
    images = noise()
    before = images.clone()
    view = EvaluationRenderer(EVALUATION, channels_last).render(images)
    expected = tv.normalize(images.float() / 255, list(EVALUATION.mean), list(EVALUATION.std))
    torch.testing.assert_close(view, expected, rtol=0, atol=1e-6)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    assert view.is_contiguous(memory_format=memory_format)
    assert torch.equal(images, before)


def test_evaluation_of_larger_images_is_torchvisions_resize_and_crop():
    spec = EvaluationSpec(crop_size=28, resize=SIDE, mean=(0.0, 0.1, 0.2), std=(0.5, 0.25, 1.0))
    images = noise(4, 50, 75)
    resized = tv.resize(images.float(), SIDE, InterpolationMode.BICUBIC, antialias=True)
    expected = tv.center_crop(resized, [28, 28]).clamp(0, 255)
    view = EvaluationRenderer(spec).render(images)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    assert ((view * std + mean) * 255 - expected).abs().max() <= 0.5 + 1e-2


@pytest.mark.parametrize("shape", [(SIDE, SIDE), (40, 57)], ids=["square", "wide"])
def test_one_table_renders_what_crops_and_photometry_do_one_after_the_other(shape):
    images = noise(COUNT, *shape)
    sizes = [np.full(COUNT, side) for side in shape]
    table = torch.from_numpy(RENDERER.draw_table(INDICES, EPOCH, *shape))
    for view, found in enumerate(RENDERER.render_table(images, table)):
        boxes = RENDERER.draw_crops(view, INDICES, EPOCH, *sizes)
        crops = crop_and_resize(images, boxes, RENDERER.crop_sizes[view])
        assert torch.equal(found, RENDERER.finish(view, crops, INDICES, EPOCH))
