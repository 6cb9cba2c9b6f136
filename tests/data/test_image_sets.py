"""Every image set answers for itself: the same questions to arrays, files and betons."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from sslortho.augment import EvaluationRenderer, EvaluationSpec, ViewRenderer, create_views
from sslortho.data import (
    BetonImages,
    EpochOrder,
    EvaluationViewLoader,
    ImageArray,
    ImageFiles,
    ImageSet,
    PageOrder,
    PixelSource,
    TensorEvaluationLoader,
    TensorLoader,
    ViewLoader,
)
from sslortho.data.beton import read_beton, write_beton

CPU = torch.device("cpu")
COUNT = 6
SHARE = {"batch_size": 4, "seed": 3, "device": CPU, "workers": 0, "rank": 1, "world_size": 2}


def picture(index: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(index)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def sizes_of(kind: str) -> list[tuple[int, int]]:
    """(height, width) of each image; those in memory are of one size."""
    return [(20, 31) if kind == "array" else (20 + i, 31 - i) for i in range(COUNT)]


def make(kind: str, folder) -> ImageSet:
    pictures = [picture(i, *size) for i, size in enumerate(sizes_of(kind))]
    labels = torch.arange(COUNT) % 2
    if kind == "array":
        images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
        return ImageArray(images, labels, ("a", "b"))
    paths = [str(folder / f"{i}.png") for i in range(COUNT)]
    for path, pixels in zip(paths, pictures, strict=True):
        Image.fromarray(pixels).save(path)
    files = ImageFiles(tuple(paths), labels, ("a", "b"))
    if kind == "files":
        return files
    path = folder / "train.beton"
    write_beton(files, path, mode="raw", workers=1)
    pages = np.arange(COUNT) // 2
    return BetonImages(path, np.arange(COUNT), pages, labels, ("a", "b"))


@pytest.fixture(params=["array", "files", "beton"])
def kind(request) -> str:
    return request.param


@pytest.fixture
def data(kind, tmp_path) -> ImageSet:
    return make(kind, tmp_path)


def test_images_are_opened_as_they_were_made(data, kind):
    for i, size in enumerate(sizes_of(kind)):
        pixels = data.open(i)
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable
        np.testing.assert_array_equal(pixels, picture(i, *size))


def test_sizes_are_heights_and_widths_of_the_samples_asked_for(data, kind):
    expected = np.array(sizes_of(kind))
    for chosen in ([4, 0, 4], [], list(range(COUNT))):
        heights, widths = data.sizes(np.array(chosen, np.int64))
        assert heights.dtype == widths.dtype == np.int64
        assert heights.tolist() == expected[chosen, 0].tolist() if chosen else len(heights) == 0
        assert widths.tolist() == expected[chosen, 1].tolist() if chosen else len(widths) == 0
    assert data.first_size == (20, 31)


def test_a_selection_is_a_set_of_the_same_kind(data, kind):
    part = data.select(torch.tensor([5, 2]))
    assert type(part) is type(data)
    assert len(part) == 2
    assert part.labels.tolist() == [1, 0]
    assert part.classes == data.classes
    size = sizes_of(kind)[2]
    np.testing.assert_array_equal(part.open(1), picture(2, *size))
    assert part.first_size == sizes_of(kind)[5]


@pytest.mark.parametrize(("side", "small"), [(96, True), (97, False)])
def test_images_up_to_96_pixels_are_small_in_files_and_in_memory(tmp_path, side, small):
    Image.new("RGB", (60, side)).save(tmp_path / "x.png")
    files = ImageFiles((str(tmp_path / "x.png"),), torch.zeros(1).long(), ())
    assert files.holds_small_images is small
    array = ImageArray(torch.zeros(1, 3, side, 60, dtype=torch.uint8), torch.zeros(1).long(), ())
    assert array.holds_small_images is small


def test_names_of_files(data, kind):
    names = [f"{i}.png" for i in range(COUNT)]
    assert data.file_names() == (None if kind == "array" else names)
    assert data.select(torch.tensor([3])).file_names() == (None if kind == "array" else ["3.png"])
    path = data.file_of(2)
    assert path is None if kind != "files" else path.endswith("/2.png")


def test_the_order_of_a_beton_that_is_read_by_pages_is_by_pages(data, kind):
    plain = data.epoch_order(4, 3, 1, 2)
    assert type(plain) is EpochOrder
    assert plain == EpochOrder(COUNT, 4, 3, 1, 2)
    order = data.epoch_order(4, 3, 1, 2, "process")
    assert isinstance(order, PageOrder) is (kind == "beton")
    if kind == "beton":
        assert order.pages is data.pages
        assert (order.batch_size, order.seed, order.rank, order.world_size) == (4, 3, 1, 2)


def test_train_loaders_give_the_views_of_the_samples_of_the_order(data, kind):
    renderer = ViewRenderer(create_views("barlow_twins_small", 16), seed=3)
    loader = data.create_train_loader(renderer, **SHARE)
    assert isinstance(loader, TensorLoader if kind == "array" else ViewLoader)
    assert loader.order == data.epoch_order(4, 3, 1, 2)
    assert loader.renderer is renderer
    loader.set_epoch(2)
    (batch,) = loader
    (indices,) = loader.order.steps(2)
    assert batch.labels.tolist() == data.labels[torch.from_numpy(indices)].tolist()
    assert [tuple(view.shape) for view in batch.views] == [(2, 3, 16, 16)] * 2


def test_evaluation_loaders_give_every_image_once(data, kind):
    renderer = EvaluationRenderer(EvaluationSpec(crop_size=16, resize=16))
    share = {name: value for name, value in SHARE.items() if name != "seed"}
    seen = []
    for rank in range(2):
        loader = data.create_evaluation_loader(renderer, **{**share, "rank": rank})
        kinds = {"array": TensorEvaluationLoader}
        assert isinstance(loader, kinds.get(kind, EvaluationViewLoader))
        seen += [label for batch in loader for label in batch.labels.tolist()]
    assert seen == data.labels.tolist()


def test_training_and_evaluation_read_one_source(data, kind):
    assert data.source() is data.source("os")
    assert data.source().labels is data.labels


@dataclass(frozen=True, eq=False)
class Squares(ImageSet):
    """A new origin of images: one class."""

    labels: torch.Tensor
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices):
        return Squares(self.labels[indices])

    def open(self, index):
        return np.full((18, 18, 3), 20 * int(self.labels[index]), np.uint8)

    def sizes(self, indices):
        return np.full(len(indices), 18), np.full(len(indices), 18)


def test_a_new_origin_of_images_is_one_class():
    data = Squares(torch.arange(8))
    assert isinstance(data.source(), PixelSource)
    assert data.holds_small_images
    grey = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}
    renderer = EvaluationRenderer(EvaluationSpec(crop_size=16, resize=16, **grey))
    loader = data.create_evaluation_loader(renderer, batch_size=3, device=CPU, workers=1)
    views = torch.cat([batch.views[0] for batch in loader])
    expected = 20.0 * torch.arange(8).view(-1, 1, 1, 1).expand(-1, 3, 16, 16)
    torch.testing.assert_close(views, expected)


def test_a_jpeg_in_a_beton_is_opened_as_pil_decodes_it(tmp_path):
    path = tmp_path / "0.jpg"
    Image.fromarray(picture(0, 40, 50)).save(path, quality=80)
    files = ImageFiles((str(path),), torch.zeros(1).long(), ())
    out = tmp_path / "train.beton"
    write_beton(files, out, workers=1)
    zeros = np.zeros(1, np.int64)
    data = BetonImages(out, zeros, zeros, files.labels, ())
    np.testing.assert_array_equal(data.open(0), np.asarray(Image.open(path)))
    start, content = int(read_beton(out).images["data_ptr"][0]), bytearray(out.read_bytes())
    content[start : start + 50] = bytes(50)
    out.write_bytes(content)
    with pytest.raises(ValueError, match=r"image 0 of .*train\.beton cannot be decoded"):
        data.open(0)
