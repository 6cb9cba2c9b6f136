"""Trackers agree with metrics.jsonl, also after a crash: TensorBoard's files are read by TensorBoard."""

import json
import math
from collections import defaultdict

import pytest
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from accelerate.utils import ProjectConfiguration
from helpers.script_runs import finish, records, start_script, wait_for_records
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sslortho.train.records import Reporter, records_from
from sslortho.train.trackers import WANDB_ID

RUN = (
    "--subset", "32", "--batch_size", "8", "--epochs", "6", "--warmup_epochs", "0", "--backbone", "basic_cnn",
    "--projector", "8-8", "--threads", "1", "--log_every", "1", "--checkpoint_every", "2",
    "--linear_probe", "false",
)  # fmt: skip
"""24 steps, 4 an epoch."""


def read_tensorboard(folder):
    """Name to (step, value) as TensorBoard shows them."""
    shown = EventAccumulator(str(folder / "logs" / "sslortho"), size_guidance={"scalars": 0})
    shown.Reload()
    return {
        name: [(e.step, e.value) for e in shown.Scalars(name)] for name in shown.Tags()["scalars"]
    }


def expected_of(found):
    """The same from records of metrics.jsonl."""
    values = defaultdict(list)
    for record in found:
        for name, value in record.items():
            if name not in ("step", "epoch"):
                values[name].append((record["step"], math.nan if value is None else value))
    return dict(values)


def check_same(shown, expected):
    assert shown.keys() == expected.keys()
    for name, points in expected.items():
        assert [s for s, _ in shown[name]] == [s for s, _ in points], name
        assert [v for _, v in shown[name]] == pytest.approx([v for _, v in points], nan_ok=True)


@pytest.mark.slow
def test_after_a_kill_tensorboard_shows_each_step_once(tmp_path):
    out = tmp_path / "run"
    process = start_script("pretrain.py", *RUN, "--out", str(out))
    wait_for_records(
        out, 13
    )  # with the evaluations, about step 11: the last checkpoint is of step 8
    process.kill()
    process.communicate()
    assert [r["step"] for r in records(out)][-1] > 8
    finish(start_script("pretrain.py", *RUN, "--out", str(out)))
    found = records(out)
    assert [r["step"] for r in found if "loss" in r] == list(range(1, 25))
    check_same(read_tensorboard(out), expected_of(found))


class Recorder(GeneralTracker):
    """A tracker that keeps what it is given, by the name of another."""

    requires_logging_directory = False
    main_process_only = True

    def __init__(self, name):
        super().__init__(_blank=True)
        self.name, self.given, self.config = name, [], None

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step=None, **_):
        self.given.append((step, values))


def session(folder, step, logged, length=None, log_with="tensorboard"):
    """A session that begins at a step and logs some; its reporter, left as a kill leaves it."""
    project = ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "logs"))
    accelerator = Accelerator(cpu=True, log_with=log_with, project_config=project)
    reporter = Reporter(folder, accelerator, 100, {"lr": 0.1, "betas": (0.9, 0.99), "out": None})
    reporter.resume(step, length=length)
    for number in logged:
        reporter.log(number, 0, {"loss": 100.0 * step + number})
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.writer.close()
    reporter.close()
    return reporter


@pytest.mark.parametrize(("last", "again"), [(8, 12), (0, 5), (12, 14), (3, 20)])
def test_steps_that_are_repeated_are_shown_once(tmp_path, last, again):
    session(tmp_path, 0, range(13))
    session(tmp_path, last, range(last + 1 if last else 0, again))
    session(tmp_path, 2, range(3, 6))
    found = records(tmp_path)
    assert [r["step"] for r in found] == [*range(6)]
    check_same(read_tensorboard(tmp_path), expected_of(found))


def test_an_evaluation_that_came_after_the_checkpoint_of_its_step_is_recorded_once(tmp_path):
    """A signal after the last step of an epoch: the next session evaluates, and may be killed again."""
    first = session(tmp_path, 0, range(1, 5))
    length = first.length
    for _ in range(3):
        reporter = session(tmp_path, 4, [], length)
        reporter.log(4, 1, {"knn_top1": 50.0})
    found = records(tmp_path)
    assert [r for r in found if "knn_top1" in r] == [{"step": 4, "epoch": 1, "knn_top1": 50.0}]
    check_same(read_tensorboard(tmp_path), expected_of(found))


def test_a_tracker_that_joins_later_is_given_all_records(tmp_path):
    session(tmp_path, 0, range(1, 9), log_with=None)
    session(tmp_path, 6, range(7, 10))
    check_same(read_tensorboard(tmp_path), expected_of(records(tmp_path)))


def test_records_from_a_step_are_those_of_the_whole_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        "".join(json.dumps({"step": s, "x": i}) + "\n" for i, s in enumerate([0, 1, 1, 2, 2, 5]))
    )
    every = [json.loads(line) for line in path.read_text().splitlines()]
    for step in range(-1, 7):
        assert records_from(path, step) == [r for r in every if r["step"] >= step]


def begin_wandb(folder, step, monkeypatch):
    """Arguments that W&B's tracker would be begun with, and the steps that it is given."""
    given = {}
    project = ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "logs"))
    accelerator = Accelerator(cpu=True, project_config=project)
    recorder = Recorder("wandb")
    accelerator.log_with = ["wandb"]
    accelerator.trackers = [recorder]
    monkeypatch.setattr(accelerator, "init_trackers",
                        lambda project, config, init_kwargs: given.update(init_kwargs))  # fmt: skip
    reporter = Reporter(folder, accelerator, 100, {"lr": 0.1})
    reporter.resume(step)
    for number in range(step + 1, step + 4):
        reporter.log(number, 0, {"loss": float(number)})
    reporter.close()
    return given.get("wandb"), [step for step, _ in recorder.given]


def test_a_run_goes_on_as_the_same_at_wandb(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    first, logged = begin_wandb(tmp_path, 0, monkeypatch)
    assert logged == [1, 2, 3]
    second, logged = begin_wandb(tmp_path, 2, monkeypatch)
    assert logged == [3, 4, 5]
    assert (
        first
        == second
        == {"id": (tmp_path / "logs" / WANDB_ID).read_text().strip(), "resume": "allow"}
    )
    afresh, _ = begin_wandb(tmp_path, 0, monkeypatch)
    assert afresh["id"] != first["id"]


def test_an_id_of_the_users_own_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    assert begin_wandb(tmp_path, 0, monkeypatch)[0] is None
