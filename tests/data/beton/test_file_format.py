"""read_beton: what FFCV and we write is read, and no damage to a file gets past it."""

import os
import pickle
import shutil
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from sslortho.augment import EvaluationRenderer, EvaluationSpec
from sslortho.data import EvaluationViewLoader, ImageArray, PixelSource, load_split
from sslortho.data.beton import file_format
from sslortho.data.beton.file_format import read_beton
from sslortho.data.beton.writer import write_beton

MIB = 1 << 20

# Where things lie, by hand: a header of 24 bytes, two descriptors of 1041, records of 24 (an image
# of 13 from 0 on, a label of 8 from 16 on).
NUM_FIELDS, PAGE_SIZE, NUM_SAMPLES, TABLE_PTR = (2, "<H"), (4, "<I"), (8, "<Q"), (16, "<Q")
FIRST_TYPE, FIRST_NAME, SECOND_TYPE, SECOND_NAME = 24, 25, 24 + 1041, 25 + 1041
METADATA = 24 + 2 * 1041
RECORD = 24
MODE, WIDTH, HEIGHT, DATA_PTR = (0, "<B"), (1, "<H"), (3, "<H"), (5, "<Q")


def image_set(count: int, side: int) -> ImageArray:
    generator = torch.Generator().manual_seed(0)
    size = (count, 3, side, side)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    return ImageArray(images, torch.arange(count) * 3 - 1, ())


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> bytes:
    """Four raw images of 700 x 700, each alone on its page of 2 MiB."""
    path = tmp_path_factory.mktemp("sound") / "sound.beton"
    write_beton(image_set(4, 700), path, mode="raw", page_size=2 * MIB)
    return path.read_bytes()


@pytest.fixture
def damaged(sound, tmp_path):
    """Write the sound file with numbers changed, and read it; its path is in `.path`."""

    def read(*changes: tuple[int, str, int]):
        content = bytearray(sound)
        for offset, kind, value in changes:
            struct.pack_into(kind, content, offset, value)
        read.path.write_bytes(content)
        return read_beton(read.path)

    read.path = tmp_path / "damaged.beton"
    return read


def table_ptr(content: bytes) -> int:
    return struct.unpack_from("<Q", content, 16)[0]


def in_record(sample: int, member: tuple[int, str], value: int) -> tuple[int, str, int]:
    return METADATA + RECORD * sample + member[0], member[1], value


def test_a_file_is_read(sound, damaged):
    data = damaged()
    pixels = image_set(4, 700).images.permute(0, 2, 3, 1).numpy()
    assert len(data) == 4
    assert data.path == damaged.path
    assert data.page_size == 2 * MIB
    assert data.labels.dtype == np.int64
    assert data.labels.tolist() == [-1, 2, 5, 8]
    assert data.images["mode"].tolist() == [1] * 4
    assert data.images["width"].tolist() == data.images["height"].tolist() == [700] * 4
    assert data.sizes.dtype == np.uint64
    for i, (image, size) in enumerate(zip(data.images, data.sizes, strict=True)):
        start = int(image["data_ptr"])
        assert sound[start : start + int(size)] == pixels[i].tobytes()


def test_what_it_returns_can_be_kept_and_written_to(damaged):
    data = damaged()
    for array in (data.images, data.sizes, data.labels):
        assert array.flags.writeable  # numba and torch treat read-only memory as another thing
        assert array.flags.c_contiguous


# Files that are something else


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a beton: it has 0 bytes"),
        (bytes(23), "is not a beton: it has 23 bytes"),
        (bytes(5000), "is not a beton: its header makes no sense"),
        (
            b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01" * 99,
            "is not a beton: its header",
        ),
        (b"These are not the bytes that you are looking for." * 99, "is not a beton: its header"),
    ],
)
def test_another_file(tmp_path, content, message):
    path = tmp_path / "x.beton"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.beton {message}.*sslortho write_beton"):
        read_beton(path)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(
        ValueError, match=r"none\.beton does not exist; write it with sslortho write_beton"
    ):
        read_beton(tmp_path / "none.beton")


def test_a_folder(tmp_path):
    with pytest.raises(ValueError, match="is no file"):
        read_beton(tmp_path)


@pytest.mark.parametrize("version", [0, 1, 3, 999])
def test_another_version_is_named_beside_the_one_wanted(damaged, version):
    message = rf"damaged\.beton is a beton of version {version}, and version 2 is wanted; write it"
    with pytest.raises(ValueError, match=message):
        damaged((0, "<H", version))


# Damage


def test_an_interrupted_write(damaged):
    with pytest.raises(ValueError, match=r"damaged\.beton is unfinished"):
        damaged((*TABLE_PTR, 0))


@pytest.mark.parametrize("page_size", [0, 1, MIB, 3 * MIB, 2**32 - 1])
def test_a_page_size_that_none_writes(damaged, page_size):
    with pytest.raises(ValueError, match=r"damaged\.beton is not a beton"):
        damaged((*PAGE_SIZE, page_size))


@pytest.mark.parametrize("fields", [0, 65535])
def test_numbers_of_fields_that_cannot_be(damaged, fields):
    with pytest.raises(ValueError, match=r"damaged\.beton is not a beton"):
        damaged((*NUM_FIELDS, fields))


def test_no_samples(damaged):
    with pytest.raises(ValueError, match="holds no samples"):
        damaged((*NUM_SAMPLES, 0))


@pytest.mark.parametrize("count", [10**6, 2**60, 2**64 - 1])
def test_more_samples_than_there_is_metadata(damaged, count):
    with pytest.raises(ValueError, match=f"metadata of {count} samples do not fit"):
        damaged((*NUM_SAMPLES, count))


def test_samples_that_no_metadata_were_written_for(damaged):
    with pytest.raises(ValueError, match=r"image 4 .*not in its allocation table of 4 entries"):
        damaged((*NUM_SAMPLES, 5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            [(FIRST_NAME, "B", ord("I")), (FIRST_TYPE, "B", 3)],
            r"no field 'image' \(it has 'Image', 'l",
        ),
        (
            [(SECOND_NAME, "B", ord("L")), (SECOND_TYPE, "B", 0)],
            r"no field 'label' \(it has 'image', 'L",
        ),
        ([(FIRST_NAME + i, "B", byte) for i, byte in enumerate(b"label")], "two fields 'label'"),
        ([(FIRST_NAME, "B", 255), (FIRST_TYPE, "B", 3)], r"no field 'image' .*xffmage"),
        ([(FIRST_TYPE, "B", 3)], "has a BytesField 'image', and it must be a RGBImageField"),
        ([(SECOND_TYPE, "B", 0)], "has a FloatField 'label', and it must be a IntField"),
        ([(SECOND_TYPE, "B", 255)], "has a field 'label' of a custom type"),
        ([(SECOND_TYPE, "B", 7)], "field 'label' has the unknown type 7"),
    ],
)
def test_fields_other_than_the_ones_needed(damaged, changes, message):
    with pytest.raises(ValueError, match=rf"damaged\.beton .*{message}"):
        damaged(*changes)


@pytest.mark.parametrize(
    "names", [("x", "label"), ("image", "y"), ("pixels", "target"), ("label_", "")]
)
def test_the_only_fields_of_their_kinds_are_taken_whatever_their_names(damaged, names):
    changes = [
        (place + i, "B", byte)
        for place, name in zip((FIRST_NAME, SECOND_NAME), names, strict=True)
        for i, byte in enumerate(name.encode().ljust(16, b"\0"))
    ]
    data, plain = damaged(*changes), damaged()
    assert (data.image_field, data.label_field) == names
    assert (plain.image_field, plain.label_field) == ("image", "label")
    assert data.labels.tolist() == [-1, 2, 5, 8]
    assert np.array_equal(data.images, plain.images)


def test_two_fields_of_one_name(damaged):
    with pytest.raises(ValueError, match=r"two fields 'image' \(it has 'image', 'image'\)"):
        damaged(*[(SECOND_NAME + i, "B", byte) for i, byte in enumerate(b"image")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (in_record(2, MODE, 2), "image 2 has a mode other than 0 .jpg. and 1 .raw. .mode 2"),
        (in_record(1, WIDTH, 0), "image 1 has no pixels .*0 x 700"),
        (in_record(3, HEIGHT, 0), "image 3 has no pixels .*700 x 0"),
        (in_record(0, WIDTH, 701), "image 0 has fewer bytes than its pixels need .*701 x 700"),
        (in_record(0, HEIGHT, 65535), "image 0 has fewer bytes than its pixels need"),
        (in_record(1, DATA_PTR, 0), "image 1 at byte 0 is not in its allocation table"),
        (in_record(1, DATA_PTR, 2**64 - 1), "image 1 .*is not in its allocation table"),
        (in_record(2, DATA_PTR, 4 * MIB + 1), "image 2 .*is not in its allocation table"),
    ],
)
def test_records_that_cannot_be(damaged, change, message):
    with pytest.raises(ValueError, match=rf"damaged\.beton is damaged.*{message}"):
        damaged(change)


@pytest.mark.parametrize(
    ("ptr", "size"),
    [
        (None, 2**64 - 1),
        (None, 10**9),
        (2**64 - 1, None),
        (2**64 - 16, 32),
        (2**40, None),
        (0, None),
        (2000, 10),
    ],
)
def test_allocations_outside_of_the_data(sound, damaged, ptr, size):
    entry = table_ptr(sound) + 24 * 3
    changes = [(entry + 8, "<Q", ptr), (entry + 16, "<Q", size)]
    message = r"damaged\.beton is damaged: entry 3 of its allocation table.*outside of the data"
    with pytest.raises(ValueError, match=message):
        damaged(*[change for change in changes if change[2] is not None])


def test_an_image_across_two_pages(sound, damaged):
    size = table_ptr(sound) + 24 + 16
    assert len(damaged((size, "<Q", 2 * MIB))) == 4
    with pytest.raises(ValueError, match="image 1 crosses a page of 2097152 bytes"):
        damaged((size, "<Q", 2 * MIB + 1))


def test_a_jpeg_without_bytes(sound, damaged):
    as_jpg = in_record(2, MODE, 0)
    size = table_ptr(sound) + 24 * 2 + 16
    assert len(damaged(as_jpg, (size, "<Q", 1))) == 4
    with pytest.raises(ValueError, match="image 2 has fewer bytes"):
        damaged(as_jpg, (size, "<Q", 0))


@pytest.mark.slow
def test_a_copy_cut_short_anywhere(sound, tmp_path):
    path = tmp_path / "cut.beton"
    table = table_ptr(sound)
    generator = np.random.default_rng(0)
    lengths = {0, 1, 23, 24, 25, METADATA - 1, METADATA, METADATA + 1, METADATA + 4 * RECORD}
    lengths |= {table - 1, table, table + 1, table + 24, table + 3 * 24, len(sound) - 1}
    lengths |= set(generator.integers(0, len(sound), 40).tolist())
    for length in sorted(lengths, reverse=True):
        path.write_bytes(sound[: table + 96])
        os.truncate(path, length)
        with pytest.raises(ValueError, match=r"cut\.beton is (not a beton|cut short|damaged)"):
            read_beton(path)


def test_a_copy_whose_end_has_not_arrived(sound, tmp_path):
    """Programs that reserve the whole file before they fill it leave zeros."""
    path = tmp_path / "zeros.beton"
    path.write_bytes(sound[: -24 * 2].ljust(len(sound), b"\0"))
    with pytest.raises(ValueError, match=r"zeros\.beton is damaged or cut short: image 2"):
        read_beton(path)


@pytest.mark.slow
def test_no_change_of_bytes_lets_an_image_leave_its_file(sound, tmp_path):
    """A thousand files with random bytes changed, in all that is not pixels."""
    table = table_ptr(sound)
    places = [*range(FIRST_NAME + 16), *range(SECOND_TYPE, SECOND_NAME + 16)]
    places += [*range(METADATA, METADATA + 4 * RECORD), *range(table, len(sound))]
    generator = np.random.default_rng(0)
    path = tmp_path / "fuzz.beton"
    path.write_bytes(sound)
    refused = 0
    with path.open("r+b") as file:
        for _ in range(1000):
            changed = generator.choice(places, generator.integers(1, 4))
            for place in changed:
                file.seek(place)
                file.write(bytes([generator.integers(0, 256)]))
            file.flush()
            try:
                data = read_beton(path)
            except ValueError:
                refused += 1
            else:
                for image, size in zip(data.images, data.sizes.tolist(), strict=True):
                    mode, width, height, ptr = image.tolist()
                    assert ptr + size <= table
                    assert size >= (3 * width * height if mode == 1 else 1)
            for place in changed:
                file.seek(place)
                file.write(sound[place : place + 1])
    assert 500 < refused < 1000  # labels may be anything


# FFCV's own files


needs_ffcv = pytest.mark.skipif(find_spec("ffcv") is None, reason="needs ffcv")

WRITE_WITH_FFCV = """
import pickle, sys
import numpy as np, torch
from ffcv import types
from ffcv.fields import (BytesField, FloatField, IntField, JSONField, NDArrayField, RGBImageField,
                         TorchTensorField)
from ffcv.writer import DatasetWriter

folder = sys.argv[1]
ALL = {
    "x": RGBImageField(), "x2": RGBImageField(), "y": IntField(), "index": IntField(),
    "image": RGBImageField(), "label": IntField(), "weight": FloatField(), "text": BytesField(),
    "box": NDArrayField(np.dtype("<f4"), (2, 2)), "note": JSONField(),
    "depth": TorchTensorField(torch.float32, (5,)),
}
VALUES = {
    "y": lambda i: 7 * i, "index": lambda i: i,
    "weight": lambda i: i / 7, "label": lambda i: 100 - 3 * i, "note": lambda i: {"i": [int(i)] * i},
    "text": lambda i: np.arange(i, dtype=np.uint8),  # FFCV puts the first, empty, at byte 0
    "box": lambda i: np.full((2, 2), i, "<f4"), "depth": lambda i: torch.full((5,), float(i)),
}
rng = np.random.default_rng(0)
pixels = [rng.integers(0, 256, (100 + 7 * (i % 50), 300, 3), dtype=np.uint8) for i in range(60)]

class Samples:
    def __init__(self, names): self.names = names
    def __len__(self): return len(pixels)
    def __getitem__(self, i):
        return tuple(pixels[i] if name in ("image", "x", "x2") else VALUES[name](i) for name in self.names)

def write(file, names, workers):
    writer = DatasetWriter(f"{folder}/{file}.beton", {name: ALL[name] for name in names},
                           page_size=1 << 21, num_workers=workers)
    writer.from_indexed_dataset(Samples(names), chunksize=4)

write("plain", ["image", "label"], 1)
write("swapped", ["label", "image"], 1)
write("many", ["text", "weight", "image", "box", "note", "label", "depth"], 3)
write("no_label", ["image", "weight"], 1)
write("others", ["weight", "x", "y"], 1)
write("two_labels", ["x", "index", "y"], 1)
write("two_images", ["x2", "label", "x"], 1)
write("named", ["x2", "index", "image", "label"], 1)
orders = [list(ALL)[4:], ["weight", "image", "image", "label"], ["image"], ["text", "image", "box"]]
layouts = [types.get_metadata_type([ALL[name] for name in order]) for order in orders]
ids = {field: i for i, field in types.TYPE_ID_HANDLER.items() if field}
pickle.dump({
    "header": types.HeaderType, "field": types.FieldDescType, "allocation": types.ALLOC_TABLE_TYPE,
    "version": types.CURRENT_VERSION, "layouts": layouts,
    "orders": [[ids[type(ALL[name])] for name in order] for order in orders],
    "names": {i: field.__name__ for i, field in types.TYPE_ID_HANDLER.items() if field},
    "pixels": pixels,
}, open(f"{folder}/facts.pickle", "wb"))
"""


@pytest.fixture(scope="module")
def ffcv_folder(tmp_path_factory) -> Path:
    """Constants and a file of FFCV itself; in another process, since it forks, and hangs when it fails."""
    folder = tmp_path_factory.mktemp("ffcv")
    command = [sys.executable, "-c", WRITE_WITH_FFCV, str(folder)]
    subprocess.run(command, check=True, timeout=250)
    return folder


@pytest.fixture(scope="module")
def facts(ffcv_folder) -> dict:
    return pickle.loads((ffcv_folder / "facts.pickle").read_bytes())


@needs_ffcv
@pytest.mark.slow
def test_the_layout_is_ffcvs(facts):
    assert facts["version"] == file_format.VERSION
    assert facts["header"] == file_format.HEADER
    assert facts["field"] == file_format.FIELD
    assert facts["allocation"] == file_format.ALLOCATION
    assert facts["names"] == {i: name for i, (name, _) in file_format.FIELD_TYPES.items()}
    for order, layout in zip(facts["orders"], facts["layouts"], strict=True):
        ours = file_format.record_type(order)
        assert ours == layout
        assert ours.itemsize == layout.itemsize
        assert [ours.fields[name][1] for name in ours.names] == [
            layout.fields[name][1] for name in layout.names
        ]


@needs_ffcv
@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "swapped", "many"])
def test_ffcvs_files_are_read(ffcv_folder, facts, name):
    data = read_beton(ffcv_folder / f"{name}.beton")
    content = (ffcv_folder / f"{name}.beton").read_bytes()
    assert data.page_size == 2 * MIB
    assert data.labels.tolist() == [100 - 3 * i for i in range(60)]
    for pixels, image, size in zip(facts["pixels"], data.images, data.sizes, strict=True):
        assert (image["height"], image["width"]) == pixels.shape[:2]
        start = int(image["data_ptr"])
        assert content[start : start + int(size)] == pixels.tobytes()


@needs_ffcv
@pytest.mark.slow
def test_an_ffcv_file_without_labels_says_what_it_has(ffcv_folder):
    message = r"no field 'label' \(it has 'image', 'weight'\); one IntField is needed"
    with pytest.raises(ValueError, match=message):
        read_beton(ffcv_folder / "no_label.beton")


@needs_ffcv
@pytest.mark.slow
def test_ffcv_files_with_fields_of_other_names(ffcv_folder, facts):
    data = read_beton(ffcv_folder / "others.beton")
    assert (data.image_field, data.label_field) == ("x", "y")
    assert data.labels.tolist() == [7 * i for i in range(60)]
    assert [tuple(map(int, (r["height"], r["width"]))) for r in data.images] == [
        pixels.shape[:2] for pixels in facts["pixels"]
    ]
    named = read_beton(ffcv_folder / "named.beton")
    assert (named.image_field, named.label_field) == ("image", "label")
    assert named.labels.tolist() == [100 - 3 * i for i in range(60)]


@needs_ffcv
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("two_labels", r"no field 'label', and 2 IntFields that could be meant \('index', 'y'\)"),
        ("two_images", r"no field 'image', and 2 RGBImageFields that could be meant \('x2', 'x'\)"),
    ],
)
def test_of_several_fields_none_is_guessed(ffcv_folder, name, message):
    with pytest.raises(ValueError, match=rf"{name}\.beton has {message}"):
        read_beton(ffcv_folder / f"{name}.beton")


@needs_ffcv
@pytest.mark.slow
def test_a_loader_reads_the_field_that_holds_the_images(ffcv_folder, facts, tmp_path):
    """The views of the same pixels from FFCV's loader and one by one."""
    shutil.copy(ffcv_folder / "others.beton", tmp_path / "train.beton")
    data = load_split("beton", tmp_path, "train").select(torch.arange(8))
    assert np.array_equal(data.open(3), facts["pixels"][3])
    renderer = EvaluationRenderer(EvaluationSpec(crop_size=32, resize=32))
    settings = {"batch_size": 8, "device": torch.device("cpu"), "workers": 0}
    (batch,) = data.create_evaluation_loader(renderer, **settings)
    (expected,) = EvaluationViewLoader(PixelSource(data), renderer, *settings.values())
    assert torch.equal(batch.views[0], expected.views[0])
    assert batch.labels.tolist() == [7 * i for i in range(8)]


@needs_ffcv
@pytest.mark.slow
def test_an_ffcv_write_that_was_interrupted(ffcv_folder, tmp_path):
    """Up to the last step FFCV's header lacks the table's place."""
    content = bytearray((ffcv_folder / "plain.beton").read_bytes())
    struct.pack_into("<Q", content, 16, 0)
    path = tmp_path / "half.beton"
    path.write_bytes(content[: 4 * MIB])
    with pytest.raises(ValueError, match="unfinished"):
        read_beton(path)
