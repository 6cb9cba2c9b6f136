"""Commands on a user's own images: trained, stopped and resumed from every origin, and evaluated."""

import multiprocessing
import os
import signal
import tarfile
import time

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageColumn
from helpers.script_runs import call_command
from PIL import Image

import sslortho
from sslortho.runs.status import RunStoppedError
from sslortho.train.trainer import Trainer

SMALL = {
    "crop_size": 16, "batch_size": 4, "epochs": 2, "projector": "8-8", "trackers": "none",
    "linear_probe": False, "checkpoint_every": 1, "log_every": 1, "threads": 1,
}  # fmt: skip
COUNT = 8


class Pictures(torch.utils.data.Dataset):
    def __init__(self, pixels):
        self.pixels = pixels

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, place):
        return Image.fromarray(self.pixels[place]), 0


def write_files(folder, pixels):
    folder.mkdir()
    paths = [folder / f"{i}.png" for i in range(len(pixels))]
    for path, picture in zip(paths, pixels, strict=True):
        Image.fromarray(picture).save(path)
    return paths


def write_shard(folder, pixels):
    path = folder.with_suffix(".tar")
    with tarfile.open(path, "w") as tar:
        for source in write_files(folder, pixels):
            tar.add(source, source.name)
    return path


def in_a_table(folder, pixels):
    paths = list(map(str, write_files(folder, pixels)))
    return Dataset.from_dict({"image": paths}).cast_column("image", ImageColumn())


FORMS = {
    "array": lambda folder, x: x,
    "files": write_files,
    "Dataset": lambda folder, x: Pictures(x),
    "Hugging Face": in_a_table,
    "shard": write_shard,
    "folder": lambda folder, x: write_files(folder, x)[0].parent,
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pictures(seed=0, side=20):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (COUNT, side, side, 3), dtype=np.uint8)


def pretrain(data, out, **options):
    return sslortho.pretrain(data, "basic_cnn", out=out, **{**SMALL, **options})


def weights(run):
    return list(run.backbone.state_dict().values())


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return weights(pretrain(pictures(), tmp_path_factory.mktemp("whole") / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_stopped_run_resumes_to_the_weights_of_an_array(form, expected, tmp_path, monkeypatch):
    """All forms alike, since their pixels are the same; other images are refused."""
    step = Trainer._step

    def stop(self, *arguments) -> None:
        step(self, *arguments)
        if self.progress.step + 1 == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    data, out = FORMS[form](tmp_path / "data", pictures()), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stop)
        with pytest.raises(RunStoppedError, match="step 3"):
            pretrain(data, out)
    other = FORMS[form](tmp_path / "other", pictures(seed=1))
    with pytest.raises(ValueError, match="the training images have changed"):
        pretrain(other, out)
    found = pretrain(data, out)
    assert all(torch.equal(a, b) for a, b in zip(weights(found), expected, strict=True))
    assert found.summary["steps"] == 4
    with pytest.raises(ValueError, match="is of other data"):
        pretrain(other, out)
    assert pretrain(data, out).summary == found.summary


@pytest.mark.slow
def test_a_path_alone_suffices_on_the_command_line(expected, tmp_path):
    data = FORMS["folder"](tmp_path / "album", pictures())
    words = [w for n, v in SMALL.items() for w in (f"--{n}", str(v).lower())]
    out = tmp_path / "run"
    done = call_command(
        "pretrain", "--data", str(data), "--backbone", "basic_cnn", "--out", out, *words
    )
    assert done.returncode == 0, done.stderr
    found = sslortho.load_backbone(out).state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert (out / "report.md").read_text().startswith("# barlow_twins on album: ")
    again = call_command("pretrain", "--config", out / "config.yaml", "--out", out)
    assert "finished already" in again.stdout


@pytest.mark.slow
def test_labelled_images_of_python_are_evaluated(tmp_path):
    labels = [0, 1] * (COUNT // 2)
    train, test = (pictures(0), labels), (pictures(1), labels)
    options = {"threads": 1, "pictures": False, "backbone": "basic_cnn", "crop_size": 16}
    found = sslortho.knn_eval("random", train, test_data=test, out=tmp_path / "knn", k=3, **options)
    assert found.summary["inputs"]["test"]["count"] == COUNT
    with pytest.raises(ValueError, match=r"no labels; give \(images, labels\)"):
        sslortho.knn_eval("random", train[0], test_data=test, out=tmp_path / "x", k=3, **options)
    with pytest.raises(ValueError, match=r"no test images.*test_data"):
        sslortho.knn_eval("random", train, out=tmp_path / "x", k=3, **options)
    run = sslortho.supervised(
        train, "basic_cnn", test_data=test, out=tmp_path / "s", batch_size=4, epochs=1, threads=1,
        trackers="none", pictures=False,
    )  # fmt: skip
    assert run.summary["details"]["classes"] == 2


def test_features_are_of_all_images_where_none_are_to_test_on(tmp_path):
    options = {"threads": 1, "backbone": "basic_cnn", "crop_size": 16}
    whole = sslortho.extract_features("random", pictures(), **options)
    assert whole.shape == (COUNT, 128)
    files = sslortho.extract_features("random", write_files(tmp_path / "x", pictures()), **options)
    assert torch.equal(whole.features, files.features)


def test_a_run_of_given_images_is_not_for_the_command_line(tmp_path):
    done = call_command("pretrain", "--data", "given", "--out", tmp_path)
    assert done.returncode == 2
    assert "Python program" in done.stderr


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sslortho.pretrain("digits", test_data=pictures()), "give both as objects"),
        (lambda: sslortho.pretrain(pictures(), data_dir="x"), "data is an object"),
        (lambda: sslortho.pretrain("digits", test_data="."), "no effect on data='digits'"),
        (lambda: sslortho.pretrain(pictures(), loader="files", cache="os"), "cache='os' has no"),
    ],
)
def test_mistakes_are_value_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def plain_view(image):
    return torch.from_numpy(np.array(image.resize((16, 16)))).permute(2, 0, 1) / 255 * torch.rand(1)


@pytest.mark.slow
def test_own_views_of_a_dataset_are_made_in_processes(tmp_path):
    """Those that read the items answer to the first process alone, and those that make views would wait."""
    views = {"views": [plain_view] * 2, "workers": 1}
    expected = pretrain(pictures(), tmp_path / "array", **views)
    found = pretrain(Pictures(pictures()), tmp_path / "Dataset", worker_type="processes", **views)
    assert all(torch.equal(a, b) for a, b in zip(weights(found), weights(expected), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_all_processes_lets_the_run_save(number, expected, tmp_path, monkeypatch):
    """SLURM and systemd tell the processes that read the items too."""
    step = Trainer._step

    def stop(self, *arguments) -> None:
        step(self, *arguments)
        if self.progress.step + 1 == 2:  # evaluation and the next epoch's items follow
            for process in multiprocessing.active_children():
                os.kill(process.pid, number)
            time.sleep(0.5)

    data = Pictures(pictures())
    views = {"views": [plain_view] * 2, "workers": 1}
    own = pretrain(pictures(), tmp_path / "whole", **views)
    monkeypatch.setattr(Trainer, "_step", stop)
    told = pretrain(pictures(), tmp_path / "told", **views)  # processes that make views
    assert all(torch.equal(a, b) for a, b in zip(weights(told), weights(own), strict=True))
    found = pretrain(data, tmp_path / "run", worker_type="processes", workers=1)
    assert all(torch.equal(a, b) for a, b in zip(weights(found), expected, strict=True))
