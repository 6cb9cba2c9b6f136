"""Broken images: an error before training, or left out by a list that a run keeps."""

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.ranks import run_on_ranks
from PIL import Image

from sslortho.data import ImageArray, ImageFiles, broken_images, load_split
from sslortho.data.beton import read_beton, write_beton
from sslortho.data.image_folder import scan_folder
from sslortho.data.options import DataOptions
from sslortho.data.skip_list import read_skip_list
from sslortho.recipes.embed.options import EmbedOptions
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.recipes.show_views.options import ShowViewsOptions

REMEDY = "remove or replace them, or leave them out with --skip_broken"


def write_images(root: Path, count: int = 3) -> None:
    """train/ and test/ with classes a and b of `count` images, all different."""
    for number, (split, label) in enumerate((s, c) for s in ("train", "test") for c in "ab"):
        for i in range(count):
            rng = np.random.default_rng(100 * number + i)
            pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
            path = root / split / label / f"{i}.{'png' if i % 2 else 'jpg'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


@pytest.fixture
def data(tmp_path) -> Path:
    write_images(tmp_path / "data")
    return tmp_path / "data"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil(path: Path) -> None:
    """Change a byte in the middle of a PNG: header and end stay, and its checksum is wrong."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def load(data: Path, split: str = "train", skip_list: Path | None = None, **options):
    return load_split("folder", data, split, skip_broken=True, skip_list=skip_list, **options)


def begin(skip_list: Path) -> None:
    """Let the run whose list it is have begun."""
    (skip_list.parent / "config.yaml").write_text("skip_broken: true\n")


# without --skip_broken


@pytest.mark.parametrize("loader", ["auto", "files", "tensor"])
def test_an_error_counts_the_broken_files_and_names_the_first(data, loader):
    for name in ("a/0.jpg", "a/1.png", "b/0.jpg", "b/1.png"):
        cut(data / "train" / name)
    with pytest.raises(
        ValueError, match=rf"^4 of 6 images cannot be read: .*; {REMEDY}$"
    ) as caught:
        load_split("folder", data, "train", loader)
    message = str(caught.value)
    assert [str(data / "train" / n) in message for n in ("a/0.jpg", "a/1.png", "b/0.jpg", "b/1.png")] == [
        True, True, True, False,
    ]  # fmt: skip
    assert message.count("truncated") == 3
    assert len(message.splitlines()) == 1


def test_a_file_cut_by_its_last_byte_is_found(data):
    path = data / "train" / "a" / "0.jpg"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"a/0\.jpg cannot be read as an image .*--skip_broken$"):
        load_split("folder", data, "train", "files")


def test_damage_that_decoding_alone_finds_is_named_with_the_remedy_when_it_is_met(data):
    spoil(data / "train" / "a" / "1.png")
    files = load_split("folder", data, "train", "files")
    with pytest.raises(
        ValueError, match=r"a/1\.png cannot be read .*leave it out with --skip_broken"
    ):
        files.open(1)


def test_all_files_that_cannot_be_decoded_into_memory_are_counted(data):
    for name in ("a", "b"):
        spoil(data / "train" / name / "1.png")
    with pytest.raises(ValueError, match=rf"^2 of 6 images cannot be read: .*b/1\.png .*{REMEDY}"):
        load_split("folder", data, "train", "tensor")


@pytest.mark.parametrize("broken", [0, 1])
def test_each_image_is_checked_once(tmp_path, monkeypatch, broken):
    write_images(tmp_path, 40)
    for i in range(broken):
        cut(tmp_path / f"train/a/{2 * i}.jpg")
    files, checked = scan_folder(tmp_path, "train"), []
    check = ImageFiles.check
    monkeypatch.setattr(
        ImageFiles, "check", lambda self, i, *how: checked.append(i) or check(self, i, *how)
    )
    if broken:
        with pytest.warns(UserWarning, match="1 of 80 train images are broken and left out"):
            kept, sizes = broken_images.handle_broken(files, "train", None)
    else:
        kept, sizes = broken_images.handle_broken(files, "train", None)
    assert sorted(checked) == list(range(80))
    assert sizes == [(40, 30)] * (80 - broken)
    assert len(kept) == 80 - broken


def test_of_a_huge_folder_a_sample_is_checked(tmp_path, monkeypatch):
    write_images(tmp_path, count=50)
    files = scan_folder(tmp_path, "train")
    checked = []
    monkeypatch.setattr(
        ImageFiles, "check", lambda self, i, thorough: (checked.append(i), (1, 1))[1]
    )
    monkeypatch.setattr(broken_images, "MOST_CHECKED", 99)
    broken_images.handle_broken(files, "train")
    assert sorted(checked) == [0, 50]  # the first of each class
    checked.clear()
    monkeypatch.setattr(broken_images, "SAMPLED", 9)
    broken_images.handle_broken(files, "train")
    assert {0, 50, 99} <= set(checked)
    assert 11 <= len(checked) <= 13
    assert max(np.diff(sorted(checked))) <= 11  # spread over all


# with --skip_broken


@pytest.mark.parametrize("loader", ["files", "tensor"])
def test_broken_images_are_left_out_and_listed(data, tmp_path, loader):
    whole = {split: load_split("folder", data, split, "files") for split in ("train", "test")}
    (data / "train" / "a" / "0.jpg").write_bytes(b"")
    spoil(data / "train" / "b" / "1.png")
    (data / "test" / "b" / "2.jpg").write_text("<html>404</html>")
    run = tmp_path / "new" / "run" / "skipped_images.txt"
    with pytest.warns(
        UserWarning, match=r"^2 of 6 train images .*train/a/0\.jpg .*skipped_images"
    ) as w:
        train = load(data, "train", run, loader=loader)
    assert len(w) == 1
    with pytest.warns(
        UserWarning, match=r"^1 of 6 test images .* left out, test/b/2\.jpg \(cannot"
    ):
        test = load(data, "test", run, loader=loader)
    for images, split, kept in ((train, "train", [1, 2, 3, 5]), (test, "test", [0, 1, 2, 3, 4])):
        assert isinstance(images, ImageArray if loader == "tensor" else ImageFiles)
        assert images.classes == ("a", "b")
        assert images.labels.tolist() == whole[split].labels[kept].tolist()
        for i, index in enumerate(kept):
            assert np.array_equal(images.open(i), whole[split].open(index))
    lines = run.read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == [
        "# train: 2 broken images are left out",
        "train/a/0.jpg",
        "train/b/1.png",
        "# test: 1 broken image is left out",
        "test/b/2.jpg",
    ]
    assert lines[1].split("\t")[1] == "the file is empty"
    assert list(run.parent.iterdir()) == [run]  # nothing partial


def test_nothing_broken_is_listed_as_nothing(data, tmp_path):
    run = tmp_path / "skipped_images.txt"
    assert len(load(data, "train", run)) == 6
    assert read_skip_list(run) == {"train": {}}


def test_without_a_run_folder_nothing_is_written(data, tmp_path):
    cut(data / "train" / "a" / "0.jpg")
    before = sorted(tmp_path.rglob("*"))
    with pytest.warns(UserWarning, match="left out"):
        assert len(load(data)) == 5
    assert sorted(tmp_path.rglob("*")) == before


def test_imagenet_and_images_without_labels(data):
    (data / "test").rename(data / "val")
    cut(data / "val" / "a" / "0.jpg")
    with pytest.warns(UserWarning, match=r"left out, val/a/0\.jpg"):
        found = load_split("imagenet", data, "test", skip_broken=True)
    assert found.labels.tolist() == [0, 0, 1, 1, 1]
    flat = data.parent / "flat"
    shutil.copytree(data / "val" / "a", flat / "train")
    with pytest.warns(UserWarning, match=r"left out, train/0\.jpg"):
        found = load(flat)
    assert found.labels.tolist() == [-1, -1]


def test_a_split_without_a_whole_image_is_an_error(data):
    for path in (data / "train").glob("*/*"):
        path.write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"all 6 train images are broken, train/a/0\.jpg \(the file is"
    ):
        load(data)


@pytest.fixture
def listed(data, tmp_path) -> Path:
    """List of a run that has begun with one broken image, 1.png of class a."""
    shutil.copy(data / "train" / "a" / "1.png", tmp_path / "whole.png")
    spoil(data / "train" / "a" / "1.png")
    skip_list = tmp_path / "run" / "skipped_images.txt"
    with pytest.warns(UserWarning, match="1 of 6"):
        load(data, "train", skip_list)
    load(data, "test", skip_list)
    begin(skip_list)
    return skip_list


def test_a_run_that_has_begun_keeps_its_list_though_a_file_was_repaired(data, tmp_path, listed):
    content = listed.read_bytes()
    shutil.copy(tmp_path / "whole.png", data / "train" / "a" / "1.png")
    with pytest.warns(UserWarning, match=r"1 of 6 .* train/a/1\.png"):
        found = load(data, "train", listed, loader="files")
    assert [Path(path).name for path in found.paths] == [
        "0.jpg",
        "2.jpg",
        "0.jpg",
        "1.png",
        "2.jpg",
    ]
    assert listed.read_bytes() == content


def test_a_run_that_has_begun_does_not_decode_all_again(data, listed, monkeypatch):
    monkeypatch.setattr(
        "sslortho.data.image_files.read_pixels", lambda path, *more: pytest.fail("decoded")
    )
    with pytest.warns(UserWarning, match="1 of 6"):
        assert len(load(data, "train", listed, loader="files")) == 5


def test_a_file_that_broke_since_is_an_error_that_says_so(data, listed):
    cut(data / "train" / "b" / "0.jpg")
    message = r"^1 of 5 images .*b/0\.jpg .*they broke after .*skipped_images\.txt was written"
    with (
        pytest.warns(UserWarning, match="1 of 6"),
        pytest.raises(ValueError, match=message) as caught,
    ):
        load(data, "train", listed)
    assert "remove that file to have it written anew" in str(caught.value)
    listed.unlink()
    with pytest.warns(UserWarning, match="2 of 6"):
        assert len(load(data, "train", listed)) == 4


def test_a_run_that_never_began_finds_its_broken_images_anew(data, tmp_path, listed):
    (listed.parent / "config.yaml").unlink()
    shutil.copy(tmp_path / "whole.png", data / "train" / "a" / "1.png")
    cut(data / "test" / "a" / "0.jpg")
    assert len(load(data, "train", listed)) == 6
    with pytest.warns(UserWarning, match="1 of 6 test images"):
        assert len(load(data, "test", listed)) == 5
    assert {split: list(names) for split, names in read_skip_list(listed).items()} == {
        "train": [],
        "test": ["test/a/0.jpg"],
    }


@pytest.mark.parametrize("content", [b"\xff\xff", b"train/a/1.png\n", b"# train: 1\nno fault\n"])
def test_a_damaged_list_is_named(data, listed, content):
    listed.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"skipped_images\.txt .*remove the file to have it written"
    ):
        load(data, "train", listed)


@pytest.mark.parametrize(
    "name", ["two\nlines.jpg", "a\ttab.jpg", "caf\udce9.jpg", "é.jpg", "# x.jpg"]
)
def test_odd_names_are_listed_and_found_again(data, tmp_path, name):
    (data / "train" / "a" / name).write_bytes(b"")
    skip_list = tmp_path / "skipped_images.txt"
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"^1 of 7 train images [^\n]*$"):
            assert len(load(data, "train", skip_list)) == 6
        begin(skip_list)
    assert list(read_skip_list(skip_list)["train"]) == [f"train/a/{name}"]
    assert len(skip_list.read_text("utf-8").splitlines()) == 2


# betons


@pytest.fixture
def beton(data, tmp_path) -> Path:
    """A beton of JPEGs whose second image is cut short and third damaged at its beginning."""
    folder = tmp_path / "betons"
    folder.mkdir()
    path = folder / "train.beton"
    write_beton(scan_folder(data, "train"), path, workers=1)
    file, content = read_beton(path), bytearray(path.read_bytes())
    table = struct.unpack_from("<Q", content, 16)[0]  # of sample, place and length, 24 bytes each
    struct.pack_into("<Q", content, table + 24 + 16, int(file.sizes[1]) // 2)
    start = int(file.images["data_ptr"][2])
    content[start : start + 2] = b"no"
    path.write_bytes(content)
    return folder


def test_the_ends_of_a_betons_jpegs_are_looked_at(beton):
    with pytest.raises(
        ValueError, match=r"image 1 of .*train\.beton cannot be decoded .*write_beton"
    ) as e:
        load_split("beton", beton, "train")
    assert "leave it out with --skip_broken" in str(e.value)


def test_broken_images_of_a_beton_are_left_out_and_listed(data, beton, tmp_path):
    whole = scan_folder(data, "train")
    skip_list = tmp_path / "run" / "skipped_images.txt"
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"^2 of 6 train images .*train\.beton:1 "):
            found = load_split("beton", beton, "train", skip_broken=True, skip_list=skip_list)
        begin(skip_list)
    assert found.labels.tolist() == [0, 1, 1, 1]
    for i, index in enumerate([0, 3, 4, 5]):
        if whole.paths[index].endswith("jpg"):  # kept byte for byte
            assert np.array_equal(found.open(i), whole.open(index))
    assert list(read_skip_list(skip_list)["train"]) == ["train.beton:1", "train.beton:2"]


def test_a_record_that_gives_another_size_is_found(data, tmp_path):
    path = tmp_path / "train.beton"
    write_beton(scan_folder(data, "train"), path, workers=1)
    content = bytearray(path.read_bytes())
    record = 24 + 2 * 1041  # behind the header and the two fields: mode, width, height
    content[record + 1 : record + 3] = (39).to_bytes(2, "little")
    path.write_bytes(content)
    with pytest.warns(
        UserWarning, match=r"train\.beton:0 \(its JPEG is 40 x 30 pixels, .* 39 x 30"
    ):
        assert len(load_split("beton", tmp_path, "train", skip_broken=True)) == 5


# ranks


def load_on_rank(rank: int, folder: str) -> tuple[list[str], int, bool]:
    """Names of the images of a rank; the second one would find another file broken, and decodes none."""
    import warnings

    from sslortho.data import image_files

    decoded = []
    plain = image_files.read_pixels
    image_files.read_pixels = lambda path, *more: (decoded.append(path), plain(path, *more))[1]
    run = Path(folder) / f"run{rank}" / "skipped_images.txt"  # not shared, as on two machines
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load_split(
            "folder",
            Path(folder) / f"data{rank}",
            "train",
            "files",
            skip_broken=True,
            skip_list=run,
        )
    assert (len(decoded) > 0) == (rank == 0)
    names = [data.name_of(i) for i in range(len(data))]
    return names, sum("left out" in str(w.message) for w in caught), run.exists()


@pytest.mark.ranks
@pytest.mark.slow
def test_the_first_rank_decides_and_writes_for_all(data, tmp_path):
    spoil(data / "train" / "a" / "1.png")
    shutil.copytree(data, tmp_path / "data0")
    spoil(data / "train" / "b" / "1.png")
    shutil.copytree(data, tmp_path / "data1")
    (tmp_path / "ranks").mkdir()
    first, second = run_on_ranks(load_on_rank, 2, tmp_path / "ranks", str(tmp_path))
    assert first[0] == second[0]
    assert len(first[0]) == 5
    assert "train/a/1.png" not in first[0]
    assert (first[1:], second[1:]) == ((1, True), (0, False))


def refuse_on_rank(rank, folder):
    run = Path(folder) / "run"
    try:
        load(Path(folder) / "data", "train", run / "skipped_images.txt")
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.ranks
def test_a_list_that_the_first_rank_cannot_read_is_an_error_of_all(data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "skipped_images.txt").write_text("neither path nor fault\n")
    begin(tmp_path / "run" / "skipped_images.txt")
    (tmp_path / "ranks").mkdir()
    first, second = run_on_ranks(refuse_on_rank, 2, tmp_path / "ranks", str(tmp_path))
    assert "line 1 of" in first
    assert first == second


# options


@pytest.mark.parametrize("name", ["digits", "cifar10", "cifar100"])
def test_the_option_has_no_effect_on_images_that_are_no_files(name):
    with pytest.raises(ValueError, match=f"skip_broken=True has no effect on data='{name}'"):
        DataOptions(data=name, data_dir=None if name == "digits" else "x", skip_broken=True)


def test_a_run_lists_in_its_folder_and_commands_without_one_nowhere():
    assert PretrainOptions.of(out="runs/x").skip_list == Path("runs/x/skipped_images.txt")
    assert ShowViewsOptions.of(out="x.png").skip_list is None
    backbone = {"backbone_from": "random", "backbone": "resnet18"}
    assert EmbedOptions(**backbone).skip_list is None
    listed = EmbedOptions(**backbone, out="x.npz").skip_list
    assert listed == Path("x.npz.partial/skipped_images.txt")
    assert DataOptions().skip_list is None


def test_a_selection_keeps_the_places_of_a_folder(data):
    files = scan_folder(data, "train").select(torch.tensor([4]))
    assert files.name_of(0) == "train/b/1.png"
