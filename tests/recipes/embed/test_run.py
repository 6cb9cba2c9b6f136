"""Features in a file: the right ones, and nothing twice however often the run is killed."""

import io
import signal
import subprocess
import sys
import tarfile
import time

import datasets
import numpy as np
import pytest
import torch
from helpers.script_runs import TORCHRUN, call_command, finish, start_script
from PIL import Image
from torch import nn

import sslortho
from sslortho.evaluate import extract_features
from sslortho.evaluate.feature_rows import LINE
from sslortho.recipes.embed.options import EmbedOptions
from sslortho.recipes.embedded import images_of
from sslortho.recipes.knn_eval.options import KnnEvalOptions
from sslortho.recipes.knn_eval.run import build as build_knn

SEEN: list[int] = []
"""Numbers of the images that `Reading` has seen, in their order."""

STOP_AFTER = [10**9]
"""Number of images after which `Reading` fails."""


class Reading(nn.Module):
    """Reads the number of each image out of its colour: red and green, for mean 0 and deviation 1."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        levels = images.mean(dim=(2, 3)) * torch.tensor(STD).view(1, 3) + torch.tensor(MEAN)
        levels = (levels * 255).round()
        if levels[0, 2] == 7:  # and no trial on grey images
            if len(SEEN) >= STOP_AFTER[0]:
                raise RuntimeError("stopped")
            SEEN.extend((levels[:, 0] + 256 * levels[:, 1]).int().tolist())
        return levels * self.scale


MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


def numbered(count, side=8):
    """Images whose colours are their numbers."""
    images = np.full((count, side, side, 3), 7, np.uint8)
    images[..., 0] = (np.arange(count) % 256)[:, None, None]
    images[..., 1] = (np.arange(count) // 256)[:, None, None]
    return images


def read_numbers(features):
    return (features[:, 0] + 256 * features[:, 1]).int().tolist()


@pytest.fixture(autouse=True)
def _nothing_seen(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    SEEN.clear()
    STOP_AFTER[0] = 10**9


def embed(data, out, **options):
    given = {"threads": 1, "crop_size": 8, "normalise": "cifar10", **options}
    return sslortho.extract_features(Reading(), data, out=out, **given)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".parquet"])
def test_stopped_and_called_again_it_computes_nothing_twice(tmp_path, suffix):
    count, out = 1000, tmp_path / f"x{suffix}"
    for stop in (1, 300, 700):
        STOP_AFTER[0] = stop
        with pytest.raises(RuntimeError, match="stopped"):
            embed(numbered(count), out)
        assert not out.exists()
    STOP_AFTER[0] = 10**9
    found = embed(numbered(count), out)
    assert sorted(SEEN) == list(range(count))
    assert read_numbers(found.features) == list(range(count))
    assert list(found.names) == [str(i) for i in range(count)]
    assert not (tmp_path / f"x{suffix}.partial").exists()
    SEEN.clear()
    again = embed(numbered(count), out)
    assert SEEN == []
    assert torch.equal(again.features, found.features)


def test_rows_match_the_names_of_their_files(tmp_path):
    order = np.random.default_rng(0).permutation(300).tolist()
    for place, number in enumerate(order):
        folder = tmp_path / "photos" / f"album {place % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbered(300)[number]).save(folder / f"{place:03}-{number}.png")
    STOP_AFTER[0] = 200
    with pytest.raises(RuntimeError, match="stopped"):
        embed(tmp_path / "photos", "x.npz", labels="folders")
    STOP_AFTER[0] = 10**9
    found = embed(tmp_path / "photos", "x.npz", labels="folders")
    numbers = [int(name.rpartition("-")[2].removesuffix(".png")) for name in found.names]
    assert read_numbers(found.features) == numbers
    assert sorted(SEEN) == list(range(300))
    assert all((tmp_path / "photos" / name).is_file() for name in found.names)
    folders = [name.partition("/")[0] for name in found.names]
    assert [found.class_of(i) for i in range(300)] == folders


def test_of_a_folder_with_test_images_it_says_which_it_takes(tmp_path, capsys):
    for split, count in (("train", 3), ("test", 2)):
        (tmp_path / "photos" / split).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(numbered(9)[i]).save(tmp_path / "photos" / split / f"{i}.png")
    assert len(embed(tmp_path / "photos", "x.npz")) == 2
    assert "features of the 2 test images; --split train has the others" in capsys.readouterr().err
    assert len(embed(tmp_path / "photos", "y.npz", split="train")) == 3
    assert "test images" not in capsys.readouterr().err


def test_commands_without_split_do_not_speak_of_it(tmp_path, capsys):
    """duplicates and neighbours look the images of a file up again; feature_strip embeds them often."""
    for split in ("train", "test"):
        (tmp_path / "photos" / split).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(numbered(9)[i]).save(tmp_path / "photos" / split / f"{i}.png")
    found = embed(tmp_path / "photos", None)
    assert len(images_of(found)[0]) == 3
    assert capsys.readouterr().err == ""


def test_data_without_test_images_are_named():
    with pytest.raises(ValueError, match=r"handed over has no test images; leave split out$"):
        embed(numbered(3), None, split="test")


def test_a_folder_without_test_images_is_named(tmp_path):
    Image.fromarray(numbered(9)[0]).save(tmp_path / "0.png")
    with pytest.raises(
        ValueError, match=r"data='.*' has no test images; add test/ or val/, or take"
    ):
        embed(tmp_path, None, split="test")


def test_forms_of_data(tmp_path):
    images = numbered(6)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    files = [tmp_path / f"{i}.png" for i in (3, 1, 2)]
    listed = embed(files, "list.npz")
    assert [name.rpartition("/")[2] for name in listed.names] == ["3.png", "1.png", "2.png"]
    assert read_numbers(listed.features) == [3, 1, 2]

    class Items(torch.utils.data.Dataset):
        def __len__(self):
            return len(images)

        def __getitem__(self, index):
            return Image.fromarray(images[index]), 2 * index

    for name, data in {
        "pair": (images, [2 * i for i in range(6)]),
        "tensor": torch.from_numpy(images).permute(0, 3, 1, 2),
        "dataset": Items(),
    }.items():
        found = embed(
            data, f"{name}.npz", **({"worker_type": "threads"} if name == "dataset" else {})
        )
        assert read_numbers(found.features) == list(range(6)), name
        assert list(found.names) == [str(i) for i in range(6)]
        if name == "pair":
            assert [found.class_of(i) for i in range(6)] == [str(2 * i) for i in range(6)]


def test_shards_and_hugging_face(tmp_path):
    images = [Image.fromarray(image) for image in numbered(6)]
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / "shards" / f"{shard}.tar", "w") as file:
            for i in range(3 * shard, 3 * shard + 3):
                content = io.BytesIO()
                images[i].save(content, "PNG")
                for name, data in (
                    (f"p{i}.png", content.getvalue()),
                    (f"p{i}.cls", b"%d" % (i % 2)),
                ):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(data)
                    file.addfile(entry, io.BytesIO(data))
    found = embed(tmp_path / "shards", "shards.npz")
    assert read_numbers(found.features) == list(range(6))
    assert [name.rpartition("/")[2] for name in found.names] == [f"p{i}.png" for i in range(6)]
    assert found.labels.tolist() == [0, 1] * 3
    rows = datasets.Dataset.from_dict({"image": images, "label": [1, 0] * 3})
    rows = rows.cast_column("image", datasets.Image())
    rows = rows.cast_column("label", datasets.ClassLabel(names=["cat", "dog"]))
    found = embed(rows, "hf.parquet")
    assert read_numbers(found.features) == list(range(6))
    assert [found.class_of(i) for i in range(6)] == ["dog", "cat"] * 3


@pytest.mark.slow
def test_a_beton(tmp_path):
    for i in range(6):
        folder = tmp_path / "photos" / "train" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbered(6)[i]).save(folder / f"{i}.png")
    done = call_command("write_beton", "--data", "folder", "--data_dir", "photos", "--out", "x.beton",
                        "--mode", "raw")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = embed("x.beton", "x.npz")
    assert read_numbers(found.features) == [int(name[0]) for name in found.names]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": 6}, "the embedded images have changed"),
        ({"scale": 2.0}, "the weights of the backbone have changed"),
        ({"dtype": "float16"}, "dtype is float32 there and float16 here"),
        ({"normalise": "imagenet"}, r"mean is \[0.4914.*there and \[0.485"),
        ({"crop_size": 16}, "crop_size is 8 there and 16 here"),
    ],
)
@pytest.mark.parametrize("stop", [100, 10**9])
def test_other_data_weights_or_settings_are_refused_and_named(tmp_path, change, message, stop):
    given = {"threads": 1, "crop_size": 8, "normalise": "cifar10", "out": tmp_path / "x.npy"}
    STOP_AFTER[0] = stop
    images = numbered(300)
    if stop < 300:
        with pytest.raises(RuntimeError, match="stopped"):
            sslortho.extract_features(Reading(), images, **given)
    else:
        sslortho.extract_features(Reading(), images, **given)
    STOP_AFTER[0] = 10**9
    change = dict(change)
    images = images[: -change.pop("images", 0) or None]
    other = Reading()
    other.scale.data.fill_(change.pop("scale", 1.0))
    with pytest.raises(ValueError, match=message):
        sslortho.extract_features(other, images, **given | change)
    seen = len(SEEN)
    found = sslortho.extract_features(other, images, **given | change, overwrite=True)
    if "normalise" not in change:  # whose colours mean other numbers
        assert len(SEEN) == seen + len(images)
    assert len(found) == len(images)


def test_what_is_changed_in_a_folder_is_named(tmp_path):
    for i in range(150):
        Image.fromarray(numbered(150)[i]).save(tmp_path / f"{i:03}.png")
    STOP_AFTER[0] = 100
    with pytest.raises(RuntimeError, match="stopped"):
        embed(tmp_path, tmp_path.parent / "x.npz")
    (tmp_path / "007.png").unlink()
    with pytest.raises(ValueError, match=r"of 150 images 1 removed \(007.png\).*--overwrite"):
        embed(tmp_path, tmp_path.parent / "x.npz")


def test_two_at_a_time_are_refused(tmp_path):
    (tmp_path / "x.npz.partial").mkdir()
    program = (
        "import fcntl, sys, time\n"
        "file = open('x.npz.partial/.lock', 'w')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print(flush=True)\n"
        "time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        with pytest.raises(ValueError, match="another process is at work"):
            embed(numbered(5), "x.npz")
    finally:
        holder.kill()
        holder.communicate()
    assert len(embed(numbered(5), "x.npz")) == 5


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    few = {"threads": 1, "trackers": "none", "subset": 100, "batch_size": 50, "epochs": 1}
    small = {"projector": "16-16", "linear_probe": False, "evaluate_every": 0, "warmup_epochs": 0}
    out = tmp_path_factory.mktemp("runs") / "run"
    return sslortho.pretrain("digits", "basic_cnn", out=out, **few, **small)


def test_features_are_those_of_knn_eval_and_of_a_loop_over_images(pretrained, tmp_path):
    found = sslortho.extract_features(pretrained.folder, "digits", out="x.npz", threads=1)
    options = KnnEvalOptions(
        backbone_from=str(pretrained.folder), data="digits", out=str(tmp_path / "knn"), threads=1
    )
    evaluation = build_knn(options, 5)
    expected, labels = extract_features(evaluation.subject.backbone, evaluation.test)
    assert torch.equal(found.features, expected)
    assert torch.equal(found.labels, labels)
    images = evaluation.data.test.images
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    with torch.no_grad():
        loop = [pretrained.backbone((image[None] / 255 - mean) / std) for image in images]
    torch.testing.assert_close(found.features, torch.cat(loop), rtol=1e-4, atol=1e-4)
    in_memory = sslortho.extract_features(pretrained.folder, "digits", threads=1)
    assert torch.equal(in_memory.features, expected)
    assert in_memory.names == found.names
    half = sslortho.extract_features(
        pretrained.folder, "digits", out="h.npy", threads=1, dtype="float16"
    )
    assert torch.equal(half.features, expected.half())


def test_the_command(pretrained, tmp_path):
    done = call_command("embed", pretrained.folder, "--out", "x.npz", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "x.npz: 360 rows of 512 features, float32"
    done = call_command("embed", pretrained.folder, "--out", "x.npz", "--threads", "1")
    assert "are there already" in done.stdout
    for arguments, message in (
        ([pretrained.folder], "out must be given"),
        ([pretrained.folder, "--out", "x.txt"], "out='x.txt' must end in .npz, .parquet or .npy"),
        (["--out", "x.npz"], "backbone_from must be given"),
        ([pretrained.folder, "--out", "x.npz", "--pictures", "false"], "pictures"),
    ):
        done = call_command("embed", *arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


def test_options_without_effect():
    with pytest.raises(ValueError, match="dtype='float16' has no effect on out=None"):
        EmbedOptions(backbone_from="x", dtype="float16")
    with pytest.raises(ValueError, match="subset=5 has no effect on split='test'"):
        EmbedOptions(backbone_from="x", split="test", subset=5)
    with pytest.raises(
        ValueError, match=r"subset=5 has no effect on the test images.*split='train'"
    ):
        EmbedOptions(backbone_from="x", subset=5)


@pytest.mark.filterwarnings("ignore:1 of 40 train images are broken")
def test_broken_images_are_left_out_and_listed(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(40):
        Image.fromarray(numbered(40)[i]).save(tmp_path / "photos" / f"{i:02}.png")
    (tmp_path / "photos" / "13.png").write_bytes(b"broken")
    for _ in range(2):  # written, and there already
        found = embed(tmp_path / "photos", "x.npz", skip_broken=True)
        assert read_numbers(found.features) == [i for i in range(40) if i != 13]
        assert "13.png" in (tmp_path / "x.npz.skipped_images.txt").read_text()
    with pytest.raises(ValueError, match="of something else: dtype"):
        embed(tmp_path / "photos", "x.npz", skip_broken=True, dtype="float16")
    assert sorted(path.name for path in tmp_path.glob("x*")) == [
        "x.npz",
        "x.npz.skipped_images.txt",
    ]


# Killed, as a process


def start(data, out):
    arguments = [
        "random", "--backbone", "basic_cnn", "--crop_size", "32", "--data", str(data), "--out", str(out),
        "--threads", "1",
    ]  # fmt: skip
    return start_script("embed.py", *arguments)


def count_rows(folder):
    """Rows that the journals of a folder name."""
    journals = folder.glob("journal-*.txt")
    return sum(int(n) for path in journals for _, n, _ in LINE.findall(path.read_text()))


@pytest.mark.slow
def test_killed_and_resumed_it_is_as_if_nothing_had_been(tmp_path):
    count = 20_000
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    np.save("images.npy", images)
    out, folder = tmp_path / "x.npy", tmp_path / "x.npy.partial"
    before = 0
    for _ in range(2):
        process = start("images.npy", out)
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and count_rows(folder) < before + 1000:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not out.exists()
        assert before + 1000 <= count_rows(folder) < count
        before = count_rows(folder)
    said = finish(start("images.npy", out))
    assert f"{before:,} of {count:,} rows are there" in said
    assert f"{count - before:,} of them computed now" in said
    whole = sslortho.extract_features(
        "random", "images.npy", backbone="basic_cnn", crop_size=32, threads=1
    )
    found = sslortho.load_features(out)
    assert torch.equal(found.features, whole.features)
    assert list(found.names) == list(whole.names)


@pytest.mark.slow
@pytest.mark.ranks
def test_ranks_share_the_rows(tmp_path, pretrained):
    out = tmp_path / "ranks.npz"
    arguments = [str(pretrained.folder), "--data", "digits", "--out", str(out), "--threads", "1"]
    process = start_script("embed.py", *arguments, launcher=TORCHRUN)
    assert "360 rows" in finish(process)
    alone = sslortho.extract_features(pretrained.folder, "digits", threads=1)
    assert torch.equal(sslortho.load_features(out).features, alone.features)
    process = start_script("embed.py", *arguments, "--dtype", "float16", launcher=TORCHRUN)
    errors = process.communicate(timeout=200)[1]
    assert process.returncode != 0
    assert errors.count("dtype is float32 there and float16 here") >= 2  # each rank says so


@pytest.mark.parametrize("command", ["embed", "knn_eval"])
def test_weights_that_are_not_there_are_named_before_images_are_read(command, tmp_path):
    """The place of the run may stand first."""
    empty = tmp_path / "photos"
    empty.mkdir()
    given = (tmp_path / "gone", "--data", empty, "--out", tmp_path / "x.npz")
    done = call_command(command, *given)
    assert done.returncode == 2
    assert "gone' does not exist" in done.stderr
    assert list(tmp_path.iterdir()) == [empty]
