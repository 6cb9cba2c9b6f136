"""Files that end too early, found without decoding them."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFile

from sslortho.data import decoding
from sslortho.data.decoding import BrokenImageError, check_image, read_pixels

NOISE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def encode(kind: str, mode: str = "RGB", **options) -> bytes:
    content = io.BytesIO()
    Image.fromarray(NOISE).convert(mode).save(content, kind, **options)
    return content.getvalue()


def with_thumbnail() -> bytes:
    """A JPEG whose header holds another whole JPEG, with an end marker of its own."""
    thumbnail = encode("JPEG", quality=5)
    segment = b"\xff\xe2" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = encode("JPEG")
    return whole[:2] + segment + whole[2:]


FILES = {
    "jpeg": encode("JPEG"),
    "progressive": encode("JPEG", progressive=True),
    "thumbnail": with_thumbnail(),
    "several": encode("MPO", save_all=True, append_images=[Image.fromarray(NOISE[::-1])]),
    "png": encode("PNG"),
    "gif": encode("GIF", "P"),
    "webp": encode("WEBP", lossless=True),
    "bmp": encode("BMP"),
    "tiff": encode("TIFF"),
    "lzw": encode("TIFF", compression="tiff_lzw"),
    "ppm": encode("PPM"),
    "pgm": encode("PPM", "L"),
    "pbm": encode("PPM", "1"),
}


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Paths of the files that the check decodes."""
    paths = []
    monkeypatch.setattr(decoding, "read_pixels", lambda p: (paths.append(p), read_pixels(p))[1])
    return paths


@pytest.mark.parametrize("name", FILES)
def test_a_whole_file_is_accepted_without_decoding_it(tmp_path, name, decoded):
    (tmp_path / name).write_bytes(FILES[name])
    assert check_image(str(tmp_path / name)) == (40, 24)
    assert decoded == []


@pytest.mark.filterwarnings("ignore")  # PIL's, of headers that are cut
@pytest.mark.parametrize("name", FILES)
def test_wherever_a_file_is_cut_the_check_agrees_with_decoding(tmp_path, name):
    path, whole, broken = tmp_path / name, FILES[name], 0
    for length in {*range(0, len(whole), 1 + len(whole) // 60), *range(len(whole) - 4, len(whole))}:
        path.write_bytes(whole[:length])
        try:
            read_pixels(str(path))
        except BrokenImageError:
            broken += 1
            with pytest.raises(BrokenImageError, match=name):
                check_image(str(path))
        else:
            assert check_image(str(path)) == (40, 24)
    assert broken > 20


@pytest.mark.parametrize("behind", [b"\0" * 100, b"made by a camera" * 10, bytes(100_000)])
@pytest.mark.parametrize("name", ["jpeg", "png", "gif", "webp", "bmp", "tiff", "ppm"])
def test_bytes_behind_an_image_do_not_make_it_broken(tmp_path, name, behind):
    (tmp_path / name).write_bytes(FILES[name] + behind)
    assert check_image(str(tmp_path / name)) == (40, 24)


def test_numbers_as_text_have_no_known_end(tmp_path, decoded):
    (tmp_path / "x.ppm").write_bytes(b"P3 1 1 255\n1 2 3\n")
    assert check_image(str(tmp_path / "x.ppm")) == (1, 1)
    assert decoded == []


def test_few_bytes_are_read_of_a_large_file(tmp_path, monkeypatch):
    path = tmp_path / "x.bmp"
    Image.new("RGB", (1000, 1000)).save(path)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    assert check_image(str(path)) == (1000, 1000)


@pytest.mark.filterwarnings("ignore:(Corrupt EXIF|Truncated)")  # PIL's, of a header that is cut
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>404</html>", "cannot identify image file"),
        (FILES["jpeg"][:-200], "truncated"),
        (FILES["tiff"][:20], "a TIFF that is cut short"),
    ],
)
def test_the_reason_says_what_is_wrong_and_names_no_object(tmp_path, content, reason):
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(BrokenImageError) as caught:
        check_image(str(tmp_path / "x.jpg"))
    assert reason in caught.value.reason
    assert "object at" not in str(caught.value)
    assert caught.value.path == str(tmp_path / "x.jpg")
    assert "remove or replace it, or leave it out with --skip_broken" in str(caught.value)
