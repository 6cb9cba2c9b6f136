"""A run folder: its files, and the content that it has from the beginning and at the end."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sslortho.atomic import atomic_file
from sslortho.data.first_rank import is_first_rank
from sslortho.options import Options
from sslortho.runs.config_file import check_same_run, to_yaml
from sslortho.runs.lock import hold_folder
from sslortho.runs.status import give_up
from sslortho.runs.views_picture import draw_views
from sslortho.train.records import jsonable

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run's files, whether they are there or not."""

    path: Path

    @property
    def config(self) -> Path:
        """Options, as `--config` reads them."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """Records of the training, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of the newest checkpoints."""
        return self.path / "checkpoints"

    @property
    def images(self) -> Path:
        """Names, sizes and labels of the images, as a NumPy archive; see `runs.inputs`."""
        return self.path / "images.npz"

    @property
    def summary(self) -> Path:
        """Final figures, options and provenance; a run that has it is finished."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        """The same for people, in Markdown."""
        return self.path / "report.md"

    @property
    def backbone(self) -> Path:
        """Weights of the backbone."""
        return self.path / "backbone.safetensors"

    @property
    def classifier(self) -> Path:
        """Weights of the linear classifier."""
        return self.path / "classifier.safetensors"

    @property
    def views(self) -> Path:
        """Picture of training views."""
        return self.path / "views.png"

    @property
    def curves(self) -> Path:
        """Picture of loss and accuracy against steps."""
        return self.path / "curves.png"

    def load_summary(self) -> dict[str, Any] | None:
        """Content of summary.json; None if the run is not finished. Raises ValueError for a broken file."""
        if not self.summary.exists():
            return None
        try:
            summary = json.loads(self.summary.read_text())
        except ValueError as error:
            reason = str(error)
        else:
            if isinstance(summary, dict):
                return summary
            reason = f"it holds {summary!r:.40}"
        raise ValueError(
            f"{self.summary} is broken ({reason}); delete it, and the run's command writes it again"
        )

    def read_summary(self) -> dict[str, Any] | None:
        """Content of summary.json; None if the run is not finished, or the file is broken."""
        try:
            return self.load_summary()
        except (OSError, ValueError):
            return None

    def finished_summary(self) -> dict[str, Any] | None:
        """Content of summary.json, after a line of the first rank that the run is finished; None if it is not.

        Raises ValueError for a broken file.
        """
        summary = self.load_summary()
        if summary is not None and is_first_rank():
            print("this run is finished already; another --out starts a new one")
        return summary

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json; numbers that are not finite become null, at any depth."""
        text = json.dumps(jsonable(summary), indent=2)
        with atomic_file(self.summary) as file:
            file.write((text + "\n").encode())

    def check_same(self, options: Options) -> None:
        """Raise ValueError if the folder holds results of other options, or of another command, or if it
        is no place for a run: a file, below one, or where this user may not write."""
        for path in (self.path, *self.path.parents):
            if path.exists():
                if not path.is_dir():
                    raise ValueError(
                        f"out={str(self.path)!r}: {path} is a file; give a folder, new or of this run"
                    )
                if not os.access(path, os.W_OK | os.X_OK):
                    raise ValueError(
                        f"out={str(self.path)!r}: {path} cannot be written to; give another folder"
                    )
                break
        check_same_run(options, self.path)

    def _write_beginning(self, options: Options, views: tuple[Tensor, ...] | None) -> None:
        with atomic_file(self.config) as file:
            file.write(to_yaml(options).encode())
        if views is not None:
            draw_views(self.views, views)

    def prepare(
        self, accelerator: "Accelerator", options: Options, views: tuple[Tensor, ...] | None = None
    ) -> None:
        """Write config.yaml and views.png. Every rank must call.

        Args:
            accelerator: only its main process writes, and holds the folder until `status_of` ends.
            options: of the run.
            views: of a batch, for views.png.

        Raises ValueError if another process is at work in the folder.
        """
        main = accelerator.is_main_process
        if main:
            hold_folder(self.path)
        try:
            if main:
                self._write_beginning(options, views)
            accelerator.wait_for_everyone()
        except BaseException as error:
            if main:
                give_up(self.path, error)
            raise
