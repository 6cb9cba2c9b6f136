"""The commands that are broken, with their data and their unbroken runs."""

import shutil
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .processes import Nursery

SCRIPTS = Path(__file__).parents[2] / "scripts"
PRETRAIN, WRITE_BETON = SCRIPTS / "pretrain.py", SCRIPTS / "write_beton.py"
POISONED = Path(__file__).with_name("poisoned.py")

EPOCHS = 16

TRAINING = (
    "--backbone", "basic_cnn", "--projector", "32-32", "--batch_size", "50", "--warmup_epochs", "1",
    "--checkpoint_every", "1", "--keep_last", "3", "--log_every", "1", "--threads", "1",
    "--evaluate_every", "0", "--linear_probe", "false", "--trackers", "none",
    "--channels_last", "false", "--optim", "orth_lars",
)  # fmt: skip

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@dataclass(frozen=True)
class Setting:
    """A command that is broken; `{data}` in its arguments stands for the folder of its images."""

    name: str
    arguments: tuple[str, ...] = ("--subset", "400")
    script: Path = PRETRAIN
    launcher: tuple[str, ...] = ()
    epochs: int = EPOCHS
    images: int = 0
    """Image files to generate."""
    image_size: int = 40

    def command(self, out: Path, data: Path) -> list[str]:
        """The command line of a run in the folder `out`."""
        arguments = [argument.replace("{data}", str(data)) for argument in self.arguments]
        script = [sys.executable, *self.launcher, str(self.script)]
        if self.script == WRITE_BETON:
            return [*script, *arguments, "--out", str(out / "train.beton")]
        return [*script, *TRAINING, "--epochs", str(self.epochs), *arguments, "--out", str(out)]


FOLDER = ("--data", "folder", "--data_dir", "{data}", "--workers", "2")

SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("digits"),
        Setting("other_seed", ("--subset", "400", "--seed", "7"), epochs=3),
        Setting("two_ranks", launcher=TORCHRUN, epochs=12),
        Setting("files", (*FOLDER, "--loader", "files"), images=200, epochs=12),
        Setting("poisoned", script=POISONED),
        Setting("beton", FOLDER, WRITE_BETON, images=1500, image_size=200),
    )
}


def write_images(folder: Path, count: int, size: int, seed: int = 0) -> None:
    """Write PNG images of coarse colours; past 50 large ones, hard links to the first 50."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for i in range(count):
        path = folder / f"{i:05d}.png"
        if i >= 50 and size > 100:  # encoding is slow
            path.hardlink_to(folder / f"{i % 50:05d}.png")
            continue
        coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).save(path)


class References:
    """The unbroken run of each setting, made at the first request."""

    def __init__(self, folder: Path, nursery: Nursery) -> None:
        self.folder = folder
        self.nursery = nursery
        self.seconds: dict[str, float] = {}
        self._locks = {name: threading.Lock() for name in SETTINGS}

    def data(self, name: str) -> Path:
        """The images of a setting."""
        return self.folder / name / "data"

    def get(self, name: str) -> Path:
        """The unbroken run's folder. Raises RuntimeError if that run fails."""
        with self._locks[name]:
            if name not in self.seconds:
                self.seconds[name] = self._make(SETTINGS[name])
        return self.folder / name / "run"

    def _make(self, setting: Setting) -> float:
        if setting.images:
            train = self.data(setting.name) / "train"
            write_images(train, setting.images, setting.image_size)
        out = self.folder / setting.name / "run"
        started = time.monotonic()
        command = setting.command(out, self.data(setting.name))
        child = self.nursery.start(command, self.folder / setting.name / "log")
        code = child.wait()
        if code != 0:
            raise RuntimeError(f"the unbroken run {out} ended with {code}: {child.stderr[-2000:]}")
        return time.monotonic() - started

    def copy_data(self, name: str, target: Path) -> Path:
        """Copy the images of a setting, for one run to break; returns `target`."""
        shutil.copytree(self.data(name), target)
        return target
