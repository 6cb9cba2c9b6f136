"""Tar shards: what is found in them, from where they are read, and what is wrong with them."""

import http.server
import io
import json
import multiprocessing
import os
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from sslortho.data import shard_files, tar_index
from sslortho.data.broken_images import handle_broken
from sslortho.data.loading import load_test_set, load_training_set
from sslortho.data.options import DataOptions
from sslortho.data.shard_files import expand_shards
from sslortho.data.tar_shards import load_shards


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def picture(seed, kind="PNG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return pixels, file.getvalue()


def write(path, entries):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return str(path)


def samples(first, count, label=lambda i: ("cls", str(i % 2).encode())):
    entries = []
    for i in range(first, first + count):
        end, content = label(i)
        entries += [(f"{i:04d}.png", picture(i)[1]), (f"{i:04d}.{end}", content)]
    return entries


@pytest.mark.parametrize(
    "label",
    [
        lambda i: ("cls", f"{i % 2}\n".encode()),
        lambda i: ("json", json.dumps({"label": i % 2, "url": "x"}).encode()),
    ],
)
def test_images_and_labels_are_in_the_order_of_the_shards(tmp_path, label):
    for i in range(3):
        write(tmp_path / f"a-{i:02d}.tar", samples(4 * i, 4, label))
    images = load_shards(expand_shards(str(tmp_path / "a-{00..02}.tar")))
    assert images.labels.tolist() == [0, 1] * 6
    assert images.name_of(5) == "a-01.tar/0005.png"
    for i in (0, 5, 11):
        np.testing.assert_array_equal(images.open(i), picture(i)[0])
    heights, widths = images.sizes(np.arange(12))
    assert (set(heights.tolist()), set(widths.tolist())) == ({10}, {12})
    assert expand_shards(str(tmp_path / "a-*.tar")) == images.shards.places


def test_a_folder_of_shards_has_splits_by_their_names(tmp_path):
    write(tmp_path / "train-0.tar", samples(0, 4))
    write(tmp_path / "train-1.tar", samples(4, 4))
    write(tmp_path / "val-0.tar", samples(8, 2))
    options = DataOptions(data=str(tmp_path))
    train, test = load_training_set(options), load_test_set(options)
    assert (len(train), len(test)) == (8, 2)
    assert load_training_set(DataOptions(data=str(tmp_path), labels="none")).labels.max() == -1


def test_a_shard_is_indexed_once_and_again_when_it_changes(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tar", samples(0, 3))
    first = load_shards([path])
    scan, scanned = tar_index._scan, []

    def count(*arguments):
        scanned.append(arguments)
        return scan(*arguments)

    monkeypatch.setattr(tar_index, "_scan", count)
    again = load_shards([path])
    assert not scanned
    assert again.table.digest == first.table.digest
    write(tmp_path / "a.tar", samples(1, 4))
    assert len(load_shards([path])) == 4
    assert len(scanned) == 1


def test_a_shard_without_images_keeps_its_place_in_the_index(tmp_path):
    write(tmp_path / "a-0.tar", [("notes.txt", b"x")])
    write(tmp_path / "a-1.tar", samples(0, 2))
    for _ in range(2):  # the second time from the cache
        images = load_shards(expand_shards(str(tmp_path / "a-{0..1}.tar")))
        assert images.names == ("a-1.tar/0000.png", "a-1.tar/0001.png")
        for i in range(2):
            np.testing.assert_array_equal(images.open(i), picture(i)[0])


@pytest.mark.parametrize("label", [17_000_000_000, 10**30])
def test_a_number_that_is_no_class_is_refused_unless_labels_are_left_out(tmp_path, label):
    content = json.dumps({"label": label}).encode()
    path = write(tmp_path / "a.tar", samples(0, 2) + samples(2, 1, lambda _: ("json", content)))
    with pytest.raises(ValueError, match=r"label \d+ of a\.tar/0002\.png is no .*--labels none"):
        load_training_set(DataOptions(data=path))
    assert load_training_set(DataOptions(data=path, labels="none")).labels.tolist() == [-1] * 3


def test_shards_of_one_relative_path_are_told_apart(tmp_path, monkeypatch):
    """Archives that are built to be alike to the byte have one time of change, and padding hides sizes."""
    for label in (0, 1):
        write(
            tmp_path / f"{label}" / "a.tar",
            samples(0, 2, lambda i, label=label: ("cls", b"%d" % label)),
        )
        os.utime(tmp_path / f"{label}" / "a.tar", (0, 0))
        monkeypatch.chdir(tmp_path / f"{label}")
        assert load_shards(["a.tar"]).labels.tolist() == [label] * 2


def test_shards_at_an_address(tmp_path):
    write(tmp_path / "a.tar", samples(0, 3))
    content = (tmp_path / "a.tar").read_bytes()
    fsspec.filesystem("memory").pipe("/shards/a-0.tar", content)
    images = load_training_set(DataOptions(data="memory://shards/a-{0..0}.tar"))
    local = load_shards([str(tmp_path / "a.tar")])
    np.testing.assert_array_equal(images.open(2), picture(2)[0])
    assert torch.equal(images.labels, local.labels)
    assert images.check(1) == (0, 0)
    with pytest.raises(ValueError, match=r"memory://shards/b\.tar.* cannot be read"):
        load_training_set(DataOptions(data="memory://shards/b.tar"))


class Ranges(http.server.BaseHTTPRequestHandler):
    """A server of one file, whole or in parts, as the stores of cloud providers are."""

    content = b""
    mark = '"1"'

    def do_HEAD(self):
        self._answer(200, {"Content-Length": len(self.content), "ETag": self.mark}, b"")

    def do_GET(self):
        if self.headers["Range"] is None:
            self._answer(200, {"Content-Length": len(self.content)}, self.content)
            return
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        part = self.content[first : last + 1]
        told = f"bytes {first}-{first + len(part) - 1}/{len(self.content)}"
        self._answer(206, {"Content-Length": len(part), "Content-Range": told}, part)

    def _answer(self, status, headers, body):
        if self.path != "/a-0.tar":
            self.send_error(404)
            return
        self.send_response(status)
        for name, value in {"Accept-Ranges": "bytes", **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ranges) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


def test_shards_over_http(tmp_path, server, monkeypatch):
    write(tmp_path / "a.tar", samples(0, 5))
    monkeypatch.setattr(Ranges, "content", (tmp_path / "a.tar").read_bytes())
    images = load_training_set(DataOptions(data=f"{server}/a-{{0..0}}.tar"))
    for place in (4, 0, 2):
        np.testing.assert_array_equal(images.open(place), picture(place)[0])
    assert torch.equal(images.labels, load_shards([str(tmp_path / "a.tar")]).labels)
    with pytest.raises(ValueError, match=r"http://.*/b\.tar.* cannot be read"):
        load_training_set(DataOptions(data=f"{server}/b.tar"))


def test_a_shard_at_an_address_is_indexed_again_when_it_changes(tmp_path, server, monkeypatch):
    for label in (b"0", b"1"):
        write(tmp_path / "a.tar", samples(0, 3, lambda i, label=label: ("cls", label)))
        monkeypatch.setattr(Ranges, "content", (tmp_path / "a.tar").read_bytes())
        monkeypatch.setattr(Ranges, "mark", f'"{label.decode()}"')
        images = load_training_set(DataOptions(data=f"{server}/a-0.tar"))
        assert images.labels.tolist() == [int(label)] * 3  # of the same size in bytes


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_shards_over_http_are_read_in_another_process(tmp_path, server, monkeypatch, start):
    write(tmp_path / "a.tar", samples(0, 3))
    monkeypatch.setattr(Ranges, "content", (tmp_path / "a.tar").read_bytes())
    images = load_training_set(DataOptions(data=f"{server}/a-0.tar"))
    images.open(0)
    with multiprocessing.get_context(start).Pool(1) as pool:
        found = pool.apply_async(images.open, (2,)).get(60)
    np.testing.assert_array_equal(found, picture(2)[0])


def test_more_shards_than_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_files, "MOST_OPEN", 2)
    for i in range(5):
        write(tmp_path / f"{i}.tar", samples(i, 1))
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    images = load_shards([str(tmp_path / f"{i}.tar") for i in range(5)])
    for place in (4, 0, 3, 1, 2, 4):
        np.testing.assert_array_equal(images.open(place), picture(place)[0])
    if before:
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2


def test_a_broken_image_is_named_and_left_out(tmp_path):
    entries = samples(0, 4)
    entries[4] = ("0002.png", entries[4][1][:-40])
    path = write(tmp_path / "a.tar", entries)
    with pytest.raises(ValueError, match=r"a\.tar/0002\.png cannot be read .*--skip_broken"):
        load_training_set(DataOptions(data=path))
    with pytest.warns(UserWarning, match=r"1 of 4 train images .*a\.tar/0002\.png"):
        images = load_training_set(DataOptions(data=path, skip_broken=True))
    assert images.file_names() == ["0000.png", "0001.png", "0003.png"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"no tar" * 200), "cannot be read as a tar file"),
        (lambda path: write(path, [("a.txt", b"x")]), "1 shards hold no images"),
        (
            lambda path: write(path, [("a.left.png", b"x"), ("a.right.png", b"x")]),
            r"several images \(a\.left\.png, a\.right\.png\).*image_column",
        ),
    ],
)
def test_what_is_wrong_with_a_shard_is_told(tmp_path, make, message):
    make(tmp_path / "x.tar")
    with pytest.raises(ValueError, match=message):
        load_training_set(DataOptions(data=str(tmp_path / "x.tar")))


def test_a_suffix_tells_which_image_is_meant(tmp_path):
    entries = [("a.left.png", picture(0)[1]), ("a.right.png", picture(1)[1])]
    path = write(tmp_path / "x.tar", entries)
    images = load_training_set(DataOptions(data=path, image_column="right.png"))
    np.testing.assert_array_equal(images.open(0), picture(1)[0])


@pytest.mark.parametrize("pattern", ["a-{3..1}.tar", "none-*.tar"])
def test_patterns_of_nothing(tmp_path, pattern):
    with pytest.raises(ValueError, match=r"runs backwards|names no shards"):
        expand_shards(str(tmp_path / pattern))


def test_shards_of_one_name_in_different_folders_have_names_of_their_own(tmp_path):
    """The layout of img2dataset; one of two images of the same name is broken."""
    whole, cut = samples(0, 2), samples(0, 2)
    cut[0] = (cut[0][0], cut[0][1][:60])
    write(tmp_path / "a/00000.tar", whole)
    write(tmp_path / "b/00000.tar", cut)
    images = load_shards(expand_shards(str(tmp_path / "*/00000.tar")))
    names = [images.name_of(i) for i in range(4)]
    assert names == [f"{folder}/00000.tar/{i:04d}.png" for folder in "ab" for i in range(2)]
    with pytest.warns(UserWarning, match=r"1 of 4 train images are broken .* b/00000.tar/0000.png"):
        kept, _ = handle_broken(images, "train", skip=True)
    assert [kept.name_of(i) for i in range(len(kept))] == [names[0], names[1], names[3]]


def test_labels_with_leading_zeros_are_numbers(tmp_path):
    """As WebDataset reads them."""
    write(tmp_path / "a.tar", samples(0, 3, lambda i: ("cls", b"%03d\n" % i)))
    assert load_shards([str(tmp_path / "a.tar")]).labels.tolist() == [0, 1, 2]


def test_a_folder_of_shards_to_test_on_alone_is_told(tmp_path):
    write(tmp_path / "d/val-000.tar", samples(0, 2))
    with pytest.raises(ValueError, match=r"shards to test on alone, val-000.tar first; .*\*\.tar"):
        load_training_set(DataOptions(data=str(tmp_path / "d")))


def test_only_whole_words_make_a_shard_one_to_test_on(tmp_path):
    for i, name in enumerate(("street-0", "valley-0", "testbed-0", "VAL_0", "test0")):
        write(tmp_path / f"d/{name}.tar", samples(10 * i, 2))
    options = DataOptions(data=str(tmp_path / "d"))
    train, test = load_training_set(options), load_test_set(options)
    assert {train.name_of(i).split("/")[0] for i in range(6)} == {
        "street-0.tar",
        "valley-0.tar",
        "testbed-0.tar",
    }
    assert test is not None
    assert len(test) == 4


def test_shards_beyond_those_that_stay_open_are_opened_side_by_side(tmp_path, monkeypatch):
    places = [write(tmp_path / f"{i}.tar", samples(10 * i, 1)) for i in range(2)]
    images, both, opened = load_shards(places), threading.Barrier(2, timeout=20), os.open
    monkeypatch.setattr(shard_files, "MOST_OPEN", 0)

    def open_together(*arguments, **options):
        if str(arguments[0]) in places:
            both.wait()  # breaks if the other thread has to wait for this one
        return opened(*arguments, **options)

    monkeypatch.setattr(shard_files.os, "open", open_together)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(images.open, range(2)))
    for i, pixels in enumerate(found):
        np.testing.assert_array_equal(pixels, picture(10 * i)[0])
