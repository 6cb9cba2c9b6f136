import pytest
import torch
from PIL import Image

from sslortho.data import BetonImages, ImageArray, ImageFiles, named_subset
from sslortho.data.ffcv.beton import read_beton
from sslortho.data.ffcv.names import names_path
from sslortho.data.ffcv.writer import write_beton


@pytest.fixture
def files(tmp_path):
    """Three images of each of two classes, named as ImageNet's."""
    paths = []
    for label in ("n01", "n02"):
        (tmp_path / label).mkdir()
        for i in range(3):
            path = tmp_path / label / f"{label}_{i}.png"
            Image.new("RGB", (8, 8), (i, 0, 0)).save(path)
            paths.append(str(path))
    return ImageFiles(tuple(paths), torch.tensor([0, 0, 0, 1, 1, 1]), ("n01", "n02"))


def write_list(tmp_path, text):
    path = tmp_path / "list.txt"
    path.write_text(text)
    return path


def test_the_named_files_are_taken_whatever_their_order_and_folders(files, tmp_path):
    path = write_list(tmp_path, "n02_2.png\n\n  elsewhere/n01_1.png \r\nn02_0.png")
    chosen = named_subset(files, path)
    assert [p.rsplit("/", 1)[1] for p in chosen.paths] == ["n01_1.png", "n02_0.png", "n02_2.png"]
    assert chosen.labels.tolist() == [0, 1, 1]
    assert chosen.classes == ("n01", "n02")


def beton_of(files, tmp_path, **options):
    path = tmp_path / "train.beton"
    write_beton(files, path, **options)
    table = read_beton(path)
    places = torch.arange(len(table)).numpy()
    labels = torch.tensor(table.labels.astype("int64"))
    return BetonImages(path, places, 0 * places, labels, files.classes)


def test_a_beton_knows_the_names_of_its_files_even_where_some_were_broken(files, tmp_path):
    (tmp_path / "n01" / "n01_1.png").write_text("broken")
    data = beton_of(files, tmp_path, skip_broken=True, overwrite=True)
    chosen = named_subset(data, write_list(tmp_path, "n02_0.png\nn01_2.png"))
    assert chosen.places.tolist() == [1, 2]  # without n01_1
    assert chosen.labels.tolist() == [0, 1]
    part = data.select(torch.tensor([4, 2]))
    assert named_subset(part, write_list(tmp_path, "n02_2.png")).places.tolist() == [4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "n01_0.png\nn09_1.png\nn09_0.png",
            "2 files that the .* do not have, n09_0.png, n09_1.png",
        ),
        ("\n", "names no files"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(files, tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        named_subset(files, write_list(tmp_path, text))


def test_names_that_are_not_unique_are_refused(files, tmp_path):
    twice = ImageFiles(("a/x.png", "b/x.png"), torch.tensor([0, 1]), ("a", "b"))
    with pytest.raises(ValueError, match=r"names 1 files, but 2 training images"):
        named_subset(twice, write_list(tmp_path, "x.png"))


def test_data_without_names_is_refused(files, tmp_path):
    path = write_list(tmp_path, "x.png")
    array = ImageArray(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"))
    with pytest.raises(ValueError, match="needs images with file names"):
        named_subset(array, path)
    data = beton_of(files, tmp_path)
    names_path(data.path).write_text("n01_0.png\n")
    with pytest.raises(ValueError, match=r"names 1 images, .* holds 6"):
        named_subset(data, path)
    names_path(data.path).unlink()
    with pytest.raises(ValueError, match=r"no train.beton.names beside it"):
        named_subset(data, path)
    with pytest.raises(ValueError, match="cannot be read"):
        named_subset(files, tmp_path / "nowhere.txt")
