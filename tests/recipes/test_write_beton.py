"""The command as its users start it."""

import io
import json
import os
import runpy
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.script_runs import call_script
from PIL import Image
from sklearn.datasets import load_digits

from sslortho.data.beton.file_format import read_beton
from sslortho.data.beton.images import open_beton
from sslortho.recipes.write_beton.options import WriteBetonOptions

ROOT = Path(__file__).parent.parent.parent
COMMAND = [sys.executable, str(ROOT / "scripts" / "write_beton.py")]


def run(*arguments, code=0):
    done = call_script("write_beton", *arguments)
    assert done.returncode == code, done.stderr[-3000:]
    return done


def save(path: Path, seed: int, size: tuple[int, int] = (80, 60)) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)
    return str(path)


@pytest.fixture
def imagenet(tmp_path) -> Path:
    """train/<wnid>/*.JPEG and val/<wnid>/*.JPEG."""
    root = tmp_path / "imagenet"
    for label, wnid in enumerate(["n01440764", "n01443537"]):
        for i in range(3):
            save(root / "train" / wnid / f"{wnid}_{i}.JPEG", 10 * label + i)
        save(root / "val" / wnid / "ILSVRC2012_val_1.JPEG", 50 + label, (32, 32))
    return root


def stored(path: Path) -> list[bytes]:
    data, content = read_beton(path), path.read_bytes()
    starts = data.images["data_ptr"].tolist()
    return [content[a : a + n] for a, n in zip(starts, data.sizes.tolist(), strict=True)]


def test_imagenets_layout(imagenet, tmp_path):
    out = tmp_path / "new" / "folder" / "train.beton"
    done = run("--data", "folder", "--data_dir", imagenet, "--split", "train", "--out", out)
    assert "image/s" in done.stderr
    assert done.stdout.startswith(f"{out}: 6 images, ")
    assert "6 JPEGs kept" in done.stdout
    assert read_beton(out).labels.tolist() == [0, 0, 0, 1, 1, 1]
    sources = sorted((imagenet / "train").glob("*/*"))
    assert stored(out) == [source.read_bytes() for source in sources]
    manifest = json.loads(out.with_name("train.beton.json").read_text())
    assert manifest["classes"] == ["n01440764", "n01443537"]
    assert manifest["settings"]["data_dir"] == str(imagenet)


@pytest.mark.parametrize("split", ["val", "test"])
def test_val_and_test_are_the_other_split_and_small_images_are_files_too(imagenet, tmp_path, split):
    out = tmp_path / "val.beton"
    run("--data_dir", imagenet, "--split", split, "--out", out)
    assert read_beton(out).labels.tolist() == [0, 1]
    assert stored(out) == [path.read_bytes() for path in sorted((imagenet / "val").glob("*/*"))]


def test_digits_as_pixels(tmp_path):
    out = tmp_path / "train.beton"
    done = run("--data", "digits", "--mode", "raw", "--out", out, "--page_size", 2, "--workers", 1)
    assert "1437 raw" in done.stdout
    data = read_beton(out)
    assert data.page_size == 2**21
    assert data.labels.tolist() == load_digits().target[np.arange(1797) % 5 != 0].tolist()
    assert {len(content) for content in stored(out)} == {32 * 32 * 3}


def test_options_reach_the_file(imagenet, tmp_path):
    out = tmp_path / "x.beton"
    run("--data_dir", imagenet, "--out", out, "--max_resolution", 40, "--quality", 60)
    data = read_beton(out)
    assert set(zip(data.images["width"].tolist(), data.images["height"].tolist(), strict=True)) == {
        (40, 30)
    }
    source = sorted((imagenet / "train").glob("*/*"))[0]
    stream = io.BytesIO()
    small = Image.open(source).resize((40, 30), Image.Resampling.BICUBIC)
    Image.fromarray(np.asarray(small)).save(stream, "JPEG", quality=60)
    assert stored(out)[0] == stream.getvalue()


def test_a_broken_image_is_named_or_left_out(imagenet, tmp_path):
    broken = imagenet / "train" / "n01440764" / "n01440764_1.JPEG"
    broken.write_bytes(b"")  # which has no header either
    arguments = ("--data_dir", imagenet, "--out", tmp_path / "out" / "x.beton")
    done = run(*arguments, code=2)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"write_beton.py: error: {broken} cannot be read")
    assert "skip_broken" in last
    assert list((tmp_path / "out").iterdir()) == []
    done = run(*arguments, "--skip_broken")
    assert f"left out 1 broken images, {broken} first" in done.stdout
    assert json.loads((tmp_path / "out" / "x.beton.json").read_text())["skipped"] == [str(broken)]
    assert len(read_beton(tmp_path / "out" / "x.beton")) == 5


def test_an_existing_file_is_only_replaced_when_asked_to(imagenet, tmp_path):
    out = tmp_path / "x.beton"
    out.write_bytes(b"precious")
    done = run("--data_dir", imagenet, "--out", out, code=2)
    assert done.stderr.splitlines() == [
        f"write_beton.py: error: out='{out}' exists already; give another one, or --overwrite"
    ]
    assert out.read_bytes() == b"precious"
    run("--data_dir", imagenet, "--out", out, "--overwrite")
    assert len(read_beton(out)) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--data digits", "out"),
        ("--data digits --out x.beton --qualty 3", "did you mean quality?"),
        ("--data digits --out x.beton --max_resolution 32", "max_resolution=32 has no effect"),
        ("--data_dir /nowhere --out x.beton", "data_dir='/nowhere' is no folder"),
        ("--data_dir IMAGENET --split val --out x.beton", "has no folder test/ or val/"),
        ("--data digits --out file/x.beton", "Not a directory|File exists"),
    ],
)
def test_mistakes_are_one_line(imagenet, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (imagenet / "val").rename(imagenet / "other")
    arguments = arguments.replace("IMAGENET", str(imagenet)).split()
    monkeypatch.setattr(sys, "argv", ["scripts/write_beton.py", *arguments])
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(COMMAND[1], run_name="__main__")
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert said.startswith("write_beton.py: error: ")
    assert any(part in said for part in message.split("|"))
    assert not (tmp_path / "x.beton").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_nothing(imagenet, tmp_path, number, code):
    folder = imagenet / "train" / "n01440764"
    save(tmp_path / "big.png", 0, (2500, 1800))
    for i in range(400):
        (folder / f"big_{i}.png").hardlink_to(tmp_path / "big.png")
    out = tmp_path / "out" / "x.beton"
    process = subprocess.Popen([*COMMAND, "--data_dir", str(imagenet), "--out", str(out)],
                               stderr=subprocess.PIPE)  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(out.parent.glob(".x.beton.*.partial")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, number)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert list(out.parent.iterdir()) == []


# The configuration


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": "train.ffcv"}, r"out='train\.ffcv' must be a path that ends in \.beton"),
        ({"data": "cifar10", "data_dir": None}, "data='cifar10' needs data_dir"),
        ({"data_dir": None}, "data='folder' needs data_dir"),
        ({"data": "digits"}, "data_dir='d' has no effect on data='digits'"),
        ({"data": "cifar10", "skip_broken": True}, "skip_broken=True has no effect on data="),
        ({"mode": "raw", "quality": 90}, "quality=90 has no effect on mode='raw'"),
        ({"smart_threshold": 4.0}, "smart_threshold=4.0 has no effect on mode='jpg'"),
        ({"mode": "smart", "smart_threshold": 0.0}, "smart_threshold=0.0 must be above 0"),
        ({"quality": 101}, "quality=101 must be from 1 to 100"),
        ({"max_resolution": 0}, "max_resolution=0 must be 1 or more"),
        ({"workers": 0}, "workers=0 must be 1 or more"),
        ({"page_size": 1}, "page_size=1 must be a power of two from 2 to 2048"),
        ({"page_size": 12}, "page_size=12 must be a power of two"),
        ({"page_size": 4096}, "page_size=4096 must be a power of two"),
    ],
)
def test_options_out_of_range_or_without_effect(options, message):
    with pytest.raises(ValueError, match=message):
        WriteBetonOptions(**{"data": "folder", "data_dir": "d", "out": "x.beton", **options})


def test_a_configuration_by_default():
    config = WriteBetonOptions(data_dir="d", out="x.beton")
    assert (config.data, config.split, config.mode, config.page_size) == (
        "folder",
        "train",
        "jpg",
        8,
    )
    assert config.workers is config.quality is config.max_resolution is None
    assert not config.skip_broken
    assert not config.overwrite


# Images of one's own, as pretraining takes them


def test_a_flat_folder_as_it_is(tmp_path):
    sources = [save(tmp_path / "photos" / f"{i}.jpg", i) for i in range(3)]
    png = save(tmp_path / "photos" / "album" / "z.png", 9)
    out = tmp_path / "own.beton"
    done = run("--data", tmp_path / "photos", "--out", out)
    assert done.stdout.startswith(f"{out}: 4 images, ")
    assert read_beton(out).labels.tolist() == [-1] * 4
    kept = [path.read_bytes() for path in map(Path, sources)]
    assert [content for content in stored(out) if content in kept] == kept
    images = open_beton(out)
    place = (images.file_names() or []).index("z.png")
    found = images.open(place).astype(int) - np.array(Image.open(png))
    assert abs(found).mean() < 5  # a JPEG of it
    labelled = tmp_path / "labelled.beton"
    (tmp_path / "two").mkdir()
    (tmp_path / "photos" / "album").rename(tmp_path / "two" / "album")
    save(tmp_path / "two" / "other" / "a.png", 3)
    run("--data", tmp_path / "two", "--labels", "folders", "--out", labelled)
    assert read_beton(labelled).labels.tolist() == [0, 1]


def test_photographs_are_stored_as_people_see_them(tmp_path):
    path = tmp_path / "photos" / "a.jpg"
    save(path, 0, (40, 20))
    image = Image.open(path)
    image.load()
    exif = image.getexif()
    exif[274] = 6  # turn by a quarter, clockwise
    image.save(path, exif=exif, quality=95)
    raw = np.array(Image.open(path))
    for name, option, expected in (
        ("turned", "true", np.rot90(raw, -1)),
        ("plain", "false", raw),
    ):
        out = tmp_path / f"{name}.beton"
        run(
            "--data",
            tmp_path / "photos",
            "--exif_orientation",
            option,
            "--mode",
            "raw",
            "--out",
            out,
        )
        assert np.array_equal(open_beton(out).open(0), expected)
    jpeg = tmp_path / "jpeg.beton"
    run("--data", tmp_path / "photos", "--out", jpeg)
    assert open_beton(jpeg).open(0).shape == (40, 20, 3)


def test_a_list_an_array_and_shards(tmp_path):
    sources = [save(tmp_path / "photos" / f"{i}.png", i, (8, 6)) for i in range(3)]
    pixels = np.stack([np.array(Image.open(path)) for path in sources])
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in reversed(sources)))
    np.save(tmp_path / "array.npy", pixels)
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for path in sources:
            tar.add(path, Path(path).name)
    expected = {"list.txt": pixels[::-1], "array.npy": pixels, "shard.tar": pixels}
    for name, images in expected.items():
        out = tmp_path / f"{name}.beton"
        run("--data", tmp_path / name, "--mode", "raw", "--out", out)
        written = open_beton(out)
        assert np.array_equal(np.stack([written.open(i) for i in range(3)]), images), name


def test_broken_images_of_a_path_are_named_or_listed(tmp_path):
    good = [save(tmp_path / "photos" / f"{i}.jpg", i) for i in range(2)]
    broken = tmp_path / "photos" / "z.jpg"
    broken.write_bytes(Path(good[0]).read_bytes()[:300])
    out = tmp_path / "own.beton"
    done = run("--data", tmp_path / "photos", "--out", out, code=2)
    assert "z.jpg" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
    done = run("--data", tmp_path / "photos", "--out", out, "--skip_broken", "true")
    assert "left out 1 broken images" in done.stdout
    manifest = json.loads(out.with_name("own.beton.json").read_text())
    assert manifest["skipped"] == [str(broken)]


def test_the_test_images_of_a_path(tmp_path):
    save(tmp_path / "d" / "train" / "a" / "0.png", 0)
    save(tmp_path / "d" / "train" / "b" / "1.png", 1)
    save(tmp_path / "d" / "test" / "a" / "2.png", 2)
    save(tmp_path / "d" / "test" / "b" / "3.png", 3)
    run("--data", tmp_path / "d", "--split", "test", "--out", tmp_path / "val.beton")
    assert read_beton(tmp_path / "val.beton").labels.tolist() == [0, 1]
    save(tmp_path / "flat" / "0.png", 0)
    done = run(
        "--data", tmp_path / "flat", "--split", "test", "--out", tmp_path / "x.beton", code=2
    )
    assert f"data='{tmp_path / 'flat'}' has no images for split='test'" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "no/such"}, "data='no/such' is neither a folder or file nor one of"),
        ({"data": "beton", "data_dir": "d"}, "data='beton' must be one of"),
        ({"data": "digits", "labels": "none"}, "labels='none' has no effect on data='digits'"),
        ({"data": ".", "data_dir": "d"}, "are two folders"),
    ],
)
def test_mistakes_about_a_path(options, message):
    with pytest.raises(ValueError, match=message):
        WriteBetonOptions(out="x.beton", **options)
