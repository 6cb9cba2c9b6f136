import threading
import traceback
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from sslortho.augment import (
    EvaluationRenderer,
    EvaluationSpec,
    ViewRenderer,
    ViewSpec,
    create_views,
)
from sslortho.data import (
    EpochOrder,
    EvaluationViewLoader,
    ImageArray,
    ImageFiles,
    PixelSource,
    TensorEvaluationLoader,
    TensorLoader,
    ViewLoader,
)
from sslortho.data.prefetch import run_ahead

CPU = torch.device("cpu")
SIDE, SIZE, BATCH, SEED = 16, 26, 6, 9
GREY_LEVELS = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}
PLAIN = ViewSpec(
    crop_size=SIDE,
    crop_scale=(1.0, 1.0),
    crop_ratio=(1.0, 1.0),
    flip_p=0.0,
    jitter_p=0.0,
    grayscale_p=0.0,
    blur_p=0.0,
    **GREY_LEVELS,
)
CROPS = replace(PLAIN, crop_scale=(0.08, 1.0), crop_ratio=(3 / 4, 4 / 3), flip_p=0.5)
RANDOM = create_views("barlow_twins_small", SIDE)
BLURRED = tuple(replace(view, blur_p=0.5, blur_taps=5) for view in RANDOM)
MIXED = (
    BLURRED[0],
    *(replace(BLURRED[1], crop_size=size, crop_scale=(0.05, 0.4)) for size in (7, 7, 21)),
    BLURRED[1],
)
"""Multi-crop, the largest neither first nor last."""
EVALUATION = EvaluationSpec(crop_size=SIDE, resize=SIDE, **GREY_LEVELS)

# Python 3.12 and 3.13 warn of any fork beside torch's own threads
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def label_of(index: int) -> int:
    return 1000 - index


def picture(index: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """Noise whose first red value is the index."""
    rng = np.random.default_rng(index)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[0, 0, 0] = index
    return pixels


def smooth_picture(index: int, height: int, width: int) -> np.ndarray:
    """Waves that stay clear of 0 and 255, where PIL clamps after each of its two passes."""
    y, x = np.mgrid[0 : 4 : height * 1j, 0 : 5 : width * 1j][..., None]
    phase = np.arange(3) + index
    return (128 + 35 * np.sin(2 * y + phase) + 35 * np.cos(3 * x - y + phase)).astype(np.uint8)


def as_array(pictures: list[np.ndarray]) -> ImageArray:
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor([label_of(i) for i in range(len(pictures))])
    return ImageArray(images, labels, ())


def as_tensors(pictures: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    data = as_array(pictures)
    return data.images, data.labels


def as_files(folder: Path, pictures: list[np.ndarray]) -> ImageFiles:
    paths = []
    for i, pixels in enumerate(pictures):
        paths.append(str(folder / f"{i:03}.png"))
        Image.fromarray(pixels).save(paths[-1])
    return ImageFiles(tuple(paths), torch.tensor([label_of(i) for i in range(len(paths))]), ())


@pytest.fixture
def make_loader(tmp_path):
    """kind -> loader of the same 26 noise pictures, in memory or from files."""

    def make(kind: str, specs=RANDOM, workers: int = 0, rank: int = 0, world_size: int = 1):
        pictures = [picture(i) for i in range(SIZE)]
        renderer = ViewRenderer(specs, seed=SEED)
        order = EpochOrder(SIZE, BATCH, SEED, rank, world_size)
        if kind == "tensor":
            return TensorLoader(*as_tensors(pictures), renderer, order, CPU)
        return ViewLoader(PixelSource(as_files(tmp_path, pictures)), renderer, order, CPU, workers)

    return make


def collect(loader, epoch: int, start_step: int = 0) -> list[tuple[torch.Tensor, ...]]:
    loader.set_epoch(epoch, start_step)
    return [(*batch.views, batch.labels) for batch in loader]


def same_bits(ours, theirs) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(a, b)
        for batch_a, batch_b in zip(ours, theirs, strict=True)
        for a, b in zip(batch_a, batch_b, strict=True)
    )


def to_pixels(view: torch.Tensor) -> np.ndarray:
    """A view in grey levels back to uint8 (batch, height, width, 3)."""
    rounded = view.round()
    assert (view - rounded).abs().max() < 1e-3
    return rounded.to(torch.uint8).permute(0, 2, 3, 1).numpy()


KINDS = pytest.mark.parametrize("kind", ["tensor", "files"])


@KINDS
@pytest.mark.parametrize("epoch", [0, 3])
def test_batches_hold_the_pictures_and_labels_of_the_order(make_loader, kind, epoch):
    loader = make_loader(kind, (PLAIN, PLAIN))
    batches = collect(loader, epoch)
    assert len(loader) == len(batches) == 4
    expected = list(EpochOrder(SIZE, BATCH, SEED).steps(epoch))
    for (first, second, labels), indices in zip(batches, expected, strict=True):
        assert labels.dtype == torch.int64
        assert labels.tolist() == [label_of(i) for i in indices]
        assert torch.equal(first, second)
        np.testing.assert_array_equal(to_pixels(first), [picture(i) for i in indices])


@KINDS
def test_the_remainder_is_dropped_and_nothing_is_doubled(make_loader, kind):
    batches = collect(make_loader(kind, (PLAIN,)), 0)
    seen = [int(i) for view, _ in batches for i in to_pixels(view)[:, 0, 0, 0]]
    assert len(seen) == len(set(seen)) == 24


@KINDS
def test_a_loader_is_in_the_first_epoch_until_told_otherwise(make_loader, kind):
    fresh = [(*batch.views, batch.labels) for batch in make_loader(kind)]
    loader = make_loader(kind)
    assert same_bits(fresh, collect(loader, 0))
    assert same_bits(fresh, [(*batch.views, batch.labels) for batch in loader])
    assert not same_bits(fresh, collect(loader, 1))
    assert same_bits(fresh, collect(loader, 0))


@KINDS
@pytest.mark.parametrize("start_step", [1, 3, 4])
def test_a_resumed_epoch_is_the_tail_of_the_whole_bit_for_bit(make_loader, kind, start_step):
    whole = collect(make_loader(kind), 2)
    resumed = make_loader(kind)
    assert same_bits(collect(resumed, 2, start_step), whole[start_step:])
    assert same_bits(collect(resumed, 3), collect(make_loader(kind), 3))


@KINDS
def test_an_epoch_that_is_running_is_not_disturbed_by_the_next(make_loader, kind):
    loader = make_loader(kind)
    expected = collect(loader, 0)
    loader.set_epoch(0)
    batches = []
    for batch in loader:
        batches.append((*batch.views, batch.labels))
        loader.set_epoch(1)
    assert same_bits(batches, expected)


@KINDS
@pytest.mark.parametrize("world_size", [2, 3])
def test_the_batches_of_all_ranks_together_are_those_of_one(make_loader, kind, world_size):
    single = collect(make_loader(kind), 1)
    ranks = [
        collect(make_loader(kind, rank=rank, world_size=world_size), 1)
        for rank in range(world_size)
    ]
    for parts, whole in zip(zip(*ranks, strict=True), single, strict=True):
        *views, labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        assert torch.equal(labels, whole[-1])
        for ours, theirs in zip(views, whole[:-1], strict=True):
            # matrix products of other shapes may round otherwise: one value in a thousand may
            # fall to the other side of a grey level or of the threshold of solarisation
            assert ((ours - theirs).abs() > 1e-4).float().mean() < 1e-3


@forks
def test_workers_change_no_bit_over_epochs_and_broken_off_iterations(make_loader):
    alone, helped = make_loader("files"), make_loader("files", workers=2)
    assert same_bits(collect(helped, 0), collect(alone, 0))
    helped.set_epoch(1)
    next(iter(helped))
    assert same_bits(collect(helped, 2, 1), collect(alone, 2)[1:])


@pytest.mark.parametrize("start_step", [0, 2])
def test_numbers_drawn_ahead_by_a_thread_are_those_of_the_renderer(make_loader, start_step):
    """As batches for a GPU are made; the thread that asks for a batch renders it."""
    loader = make_loader("tensor")
    order, renderer = loader.order, loader.renderer
    threads = set()
    images = loader.images

    class Images:
        shape = images.shape

        def __getitem__(self, index):
            threads.add(threading.current_thread())
            return images[index]

    loader.images = Images()
    jobs = loader._drawn_ahead(order.steps(3, start_step), epoch=3)
    batches = list(run_ahead(jobs, threads=1, ahead=2))
    assert threads == {threading.current_thread()}
    assert len(batches) == len(order) - start_step
    for batch, indices in zip(batches, order.steps(3, start_step), strict=True):
        expected = renderer.render(images[torch.from_numpy(indices.copy())], indices, 3)
        assert all(torch.equal(a, b) for a, b in zip(batch.views, expected, strict=True))
        assert torch.equal(batch.labels, loader.labels[torch.from_numpy(indices.copy())])


@pytest.mark.gpu
def test_a_gpu_makes_the_same_boxes_as_the_cpu():
    pictures = [smooth_picture(i, 40, 56) for i in range(12)]
    renderer, order = ViewRenderer((CROPS, CROPS), seed=SEED), EpochOrder(12, 4, SEED)
    ours, theirs = (
        collect(TensorLoader(*as_tensors(pictures), renderer, order, torch.device(device)), 1)
        for device in ("cuda", "cpu")
    )
    assert len(ours) == len(theirs) == 3
    for (*views, labels), (*expected, expected_labels) in zip(ours, theirs, strict=True):
        assert torch.equal(labels.cpu(), expected_labels)
        for a, b in zip(views, expected, strict=True):
            assert (a.cpu() - b).abs().max() < 1.01


@pytest.mark.parametrize("spec", [CROPS, replace(CROPS, crop_padding=7)], ids=["resized", "padded"])
def test_files_and_tensors_are_cropped_by_the_same_boxes(tmp_path, spec):
    pictures = [smooth_picture(i, 40, 56) for i in range(12)]
    renderer, order = ViewRenderer((spec, spec), seed=SEED), EpochOrder(12, 12, SEED)
    from_files = ViewLoader(PixelSource(as_files(tmp_path, pictures)), renderer, order, CPU, 0)
    in_memory = TensorLoader(*as_tensors(pictures), renderer, order, CPU)
    for epoch in (0, 1):
        ((*ours, labels),) = collect(from_files, epoch)
        ((*theirs, their_labels),) = collect(in_memory, epoch)
        assert torch.equal(labels, their_labels)
        for a, b in zip(ours, theirs, strict=True):
            assert (a - b).abs().max() < 1.01
        assert (ours[0] - ours[1]).abs().amax(dim=(1, 2, 3)).min() > 1.01


def assert_within_rounding(pixels: np.ndarray, exact: torch.Tensor) -> None:
    """uint8 (h, w, 3) is the float image (3, h, w), rounded once; ties may go either way."""
    difference = torch.from_numpy(pixels).permute(2, 0, 1) - exact.clamp(0, 255)
    assert difference.abs().max() < 0.5 + 1e-3


def as_float(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).float()


@pytest.mark.slow
@pytest.mark.parametrize("finished", [True, False], ids=["views", "crops"])
def test_files_of_different_sizes_are_cropped_as_torchvision_does(tmp_path, finished):
    """Into views of different sizes, finished by the loader or on a device."""
    sizes = [(20, 33), (33, 20), (16, 16), (50, 41), (9, 60), (70, 8)]
    pictures = [picture(i, *size) for i, size in enumerate(sizes)]
    data, count = as_files(tmp_path, pictures), len(sizes)
    crop_sizes = (SIDE, 9, 21, SIDE)
    renderer = ViewRenderer(tuple(replace(CROPS, crop_size=s) for s in crop_sizes), seed=SEED)
    loader = ViewLoader(PixelSource(data), renderer, EpochOrder(count, count, SEED), CPU, 0)
    loader.on_cpu = finished
    ((*views, labels),) = collect(loader, 5)
    assert [tuple(view.shape) for view in views] == [(count, 3, s, s) for s in crop_sizes]
    indices = np.array([1000 - label for label in labels.tolist()])
    heights, widths = np.array(sizes)[indices].T
    for number, view in enumerate(views):
        draw = renderer.draw_crops(number, indices, 5, heights, widths)
        for i, pixels in enumerate(to_pixels(view)):
            box = (int(draw.top[i]), int(draw.left[i]), int(draw.height[i]), int(draw.width[i]))
            image = as_float(pictures[indices[i]])
            crop = tv.resized_crop(image, *box, list(view.shape[2:]), InterpolationMode.BICUBIC)
            assert_within_rounding(pixels, tv.hflip(crop) if draw.flip[i] else crop)


def test_padded_crops_of_files_and_tensors_are_the_devices_to_the_pixel(tmp_path):
    """No pixel is resampled, so that nothing depends on who makes the crop."""
    pictures = [picture(i, 18, 25) for i in range(12)]
    padded = replace(PLAIN, crop_padding=3, flip_p=0.5)
    specs = (padded, replace(padded, crop_size=SIDE + 5), padded)
    renderer, order = ViewRenderer(specs, seed=SEED), EpochOrder(12, 12, SEED)
    data = as_array(pictures)
    loaders = (
        ViewLoader(PixelSource(as_files(tmp_path, pictures)), renderer, order, CPU, 0),
        TensorLoader(data.images, data.labels, renderer, order, CPU),
    )
    (indices,) = order.steps(2)
    theirs = renderer.render(data.images[torch.from_numpy(indices)], indices, 2)
    for loader in loaders:
        ((*ours, _),) = collect(loader, 2)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(to_pixels(a), to_pixels(b))
    assert not torch.equal(theirs[0], theirs[2])


def test_images_too_small_for_their_padding_are_refused_before_training(tmp_path):
    pictures = [picture(i, 8, 30) for i in range(4)]
    renderer = ViewRenderer((replace(PLAIN, crop_padding=3),), seed=SEED)
    with pytest.raises(ValueError, match=rf"crop_padding=3 needs images of {SIDE - 6} x"):
        TensorLoader(*as_tensors(pictures), renderer, EpochOrder(4, 2), CPU)
    source = PixelSource(as_files(tmp_path, pictures))
    with pytest.raises(ValueError, match="smaller than crop_size even with crop_padding"):
        next(iter(ViewLoader(source, renderer, EpochOrder(4, 2), CPU, 0)))


@pytest.mark.parametrize("specs", [RANDOM, MIXED], ids=["pair", "mixed"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_crops_that_are_finished_on_the_device_are_the_same_views(tmp_path, specs, channels_last):
    """The way that a GPU takes, with the CPU in its place."""
    pictures = [smooth_picture(i, 40, 56) for i in range(12)]
    renderer = ViewRenderer(specs, seed=SEED, channels_last=channels_last)
    source = PixelSource(as_files(tmp_path, pictures))
    direct = ViewLoader(source, renderer, EpochOrder(12, 6, SEED), CPU, 2)
    by_way_of_crops = ViewLoader(source, renderer, EpochOrder(12, 6, SEED), CPU, 2)
    by_way_of_crops.on_cpu = False
    assert same_bits(collect(by_way_of_crops, 3), collect(direct, 3))
    for batch in by_way_of_crops:
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        assert all(view.is_contiguous(memory_format=memory_format) for view in batch.views)


@forks
@pytest.mark.parametrize(("kind", "workers"), [("tensor", 0), ("files", 0), ("files", 2)])
def test_a_view_does_not_depend_on_the_sizes_of_the_others(make_loader, kind, workers):
    """Bit for bit what it is beside views of its own size: draws are by the view's place."""
    mixed = collect(make_loader(kind, MIXED, workers), 1)
    assert [view.shape[2] for view in mixed[0][:-1]] == [SIDE, 7, 7, 21, SIDE]
    for size in (SIDE, 7, 21):
        equal = tuple(replace(view, crop_size=size) for view in MIXED)
        for ours, theirs in zip(mixed, collect(make_loader(kind, equal), 1), strict=True):
            assert torch.equal(ours[-1], theirs[-1])
            for view, spec in enumerate(MIXED):
                same_size = spec.crop_size == size
                assert (ours[view].shape == theirs[view].shape) is same_size
                assert not same_size or torch.equal(ours[view], theirs[view])


def run_until_error(loader) -> tuple[int, str]:
    """The number of batches before a ValueError, and its message."""
    count = 0
    try:
        for _ in loader:
            count += 1
    except ValueError as error:
        # torch's traceback is a cycle that holds the workers; collecting it waits 10 s for them
        traceback.clear_frames(error.__traceback__)
        return count, str(error)
    return count, "no error"


@forks
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["cut short", "emptied", "removed"])
def test_a_file_that_breaks_during_training_is_named(tmp_path, workers, damage):
    data = as_files(tmp_path, [picture(i) for i in range(SIZE)])
    order = EpochOrder(SIZE, BATCH, SEED)
    loader = ViewLoader(PixelSource(data), ViewRenderer(RANDOM), order, CPU, workers)
    victim = Path(data.paths[list(order.steps(0))[2][1]])
    if damage == "removed":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:300] if damage == "cut short" else b"")
    batches, message = run_until_error(loader)
    assert batches == 2
    assert f"{victim} cannot be read" in message


# evaluation


def make_evaluation(kind: str, folder: Path, pictures, batch_size=4, workers=0, **ranks):
    renderer = EvaluationRenderer(EVALUATION)
    if kind == "tensor":
        return TensorEvaluationLoader(*as_tensors(pictures), renderer, batch_size, CPU, **ranks)
    data = as_files(folder, pictures)
    return EvaluationViewLoader(PixelSource(data), renderer, batch_size, CPU, workers, **ranks)


@KINDS
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 12, 13])
def test_evaluation_covers_each_sample_once_in_order(tmp_path, kind, world_size, size):
    pictures = [picture(i) for i in range(size)]
    seen, labels = [], []
    for rank in range(world_size):
        loader = make_evaluation(kind, tmp_path, pictures, rank=rank, world_size=world_size)
        batches = list(loader)
        assert len(batches) == len(loader)
        assert all(1 <= len(batch.labels) <= 4 for batch in batches)
        for batch in batches:
            (view,) = batch.views
            assert view.dtype == torch.float32
            assert batch.labels.dtype == torch.int64
            seen += list(to_pixels(view))
            labels += batch.labels.tolist()
    assert labels == [label_of(i) for i in range(size)]
    np.testing.assert_array_equal(seen, pictures)


@KINDS
@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_evaluation_batches_do_not_depend_on_the_number_of_ranks(tmp_path, kind, world_size):
    """A result of a batch may depend, in its last bit, on the other images in the batch."""
    pictures = [picture(i) for i in range(13)]
    shares = [
        list(make_evaluation(kind, tmp_path, pictures, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert ([] in shares) == (world_size == 5)  # there are four batches
    together = [(*batch.views, batch.labels) for share in shares for batch in share]
    alone = [(*batch.views, batch.labels) for batch in make_evaluation(kind, tmp_path, pictures)]
    assert same_bits(together, alone)


@KINDS
def test_evaluation_can_be_iterated_again(tmp_path, kind):
    loader = make_evaluation(kind, tmp_path, [picture(i) for i in range(7)])
    first, second = ([batch.labels.tolist() for batch in loader] for _ in range(2))
    assert first == second == [[1000, 999, 998, 997], [996, 995, 994]]


@forks
def test_evaluation_with_workers_is_evaluation_without(tmp_path):
    pictures = [picture(i) for i in range(13)]
    alone, helped = (
        [
            (*batch.views, batch.labels)
            for batch in make_evaluation("files", tmp_path, pictures, 4, w)
        ]
        for w in (0, 2)
    )
    assert same_bits(alone, helped)


SIZES = [(40, 57), (57, 40), (33, 33), (20, 90), (91, 20), (21, 20), (17, 18), (100, 75)]


@pytest.mark.parametrize(("resize", "crop_size"), [(20, 17), (20, 20), (37, 32), (16, 13)])
def test_evaluation_of_files_is_torchvisions_resize_and_crop(tmp_path, resize, crop_size):
    pictures = [picture(i, *size) for i, size in enumerate(SIZES)]
    data = as_files(tmp_path, pictures)
    spec = EvaluationSpec(crop_size=crop_size, resize=resize, **GREY_LEVELS)
    (batch,) = EvaluationViewLoader(PixelSource(data), EvaluationRenderer(spec), len(SIZES), CPU, 0)
    reference = transforms.Compose(
        [
            transforms.Resize(resize, InterpolationMode.BICUBIC, antialias=True),
            transforms.CenterCrop(crop_size),
        ]
    )
    for pixels, original in zip(to_pixels(batch.views[0]), pictures, strict=True):
        assert_within_rounding(pixels, reference(as_float(original)))


@pytest.mark.parametrize(("resize", "crop_size"), [(20, 17), (37, 32)])
def test_evaluation_of_files_and_tensors_agrees(tmp_path, resize, crop_size):
    pictures = [smooth_picture(i, 40, 57) for i in range(3)]
    renderer = EvaluationRenderer(EvaluationSpec(crop_size=crop_size, resize=resize, **GREY_LEVELS))
    (files,) = EvaluationViewLoader(PixelSource(as_files(tmp_path, pictures)), renderer, 3, CPU, 0)
    (tensors,) = TensorEvaluationLoader(*as_tensors(pictures), renderer, 3, CPU)
    assert torch.equal(files.labels, tensors.labels)
    assert (files.views[0] - tensors.views[0]).abs().max() < 1.01


@forks
@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_breaks_before_evaluation_is_named(tmp_path, workers):
    loader = make_evaluation("files", tmp_path, [picture(i) for i in range(9)], 4, workers)
    (tmp_path / "006.png").write_bytes(b"GIF")
    batches, message = run_until_error(loader)
    assert batches == 1
    assert "006.png cannot be read" in message


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_twenty_views_are_cut_from_one_decoded_image(tmp_path, monkeypatch, kind, workers):
    data = as_files(tmp_path, [picture(i) for i in range(SIZE)])
    opened = []
    read = ImageFiles.open

    def count(self, index):
        opened.append(index)
        return read(self, index)

    monkeypatch.setattr(ImageFiles, "open", count)
    renderer = ViewRenderer(create_views("emp_ssl_small", SIDE), SEED)
    if kind == "training":
        loader = ViewLoader(
            PixelSource(data), renderer, EpochOrder(SIZE, BATCH, SEED), CPU, workers
        )
    else:
        loader = EvaluationViewLoader(PixelSource(data), renderer, BATCH, CPU, workers)
    batches = list(loader)
    assert [len(batch.views) for batch in batches] == [20] * len(batches)
    seen = sorted(label_of(label) for batch in batches for label in batch.labels.tolist())
    assert sorted(opened) == seen
    assert len(set(seen)) == len(seen) == (24 if kind == "training" else SIZE)
    first, second = batches[0].views[:2]
    assert not torch.equal(first, second)
