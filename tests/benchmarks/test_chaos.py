"""chaos.py: it sees differences, its faults strike, and one short soak from start to end."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from chaos import prepare_out
from chaos_soak import processes, soak
from chaos_soak.broken_run import BrokenRun
from chaos_soak.checkpoint_faults import Flip, Foreign, Truncate
from chaos_soak.comparison import compare_betons, compare_trainings, step_of
from chaos_soak.data_faults import WriterDies
from chaos_soak.options import ChaosOptions
from chaos_soak.processes import Interrupted, Nursery, without_privileges
from chaos_soak.registry import FAULTS, choose_faults
from chaos_soak.results import Tally, summarise
from chaos_soak.settings import SETTINGS, WRITE_BETON, References, Setting
from chaos_soak.signal_faults import RankDies
from sslortho.recipes.command_line import parse_options
from sslortho.recipes.pretrain.options import PretrainOptions

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def chaos(*arguments):
    command = [sys.executable, str(BENCHMARKS / "chaos.py"), *arguments]
    return subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=280, check=False
    )


def write_run(folder, steps=(8, 16), weight=1.0, moment=0.5, loss=2.0, rate=100.0):
    """Write the files of a finished run that are compared."""
    (folder / "checkpoints").mkdir(parents=True)
    for step in steps:
        state = {
            "task": {"weight": torch.tensor([weight, 0.0])},
            "optimizer": {"state": {0: {"momentum": torch.tensor([moment])}}, "lr": [0.1]},
        }
        torch.save(state, folder / "checkpoints" / f"step-{step:08d}-{step:016x}.pt")
    save_file({"weight": torch.tensor([weight])}, folder / "backbone.safetensors")
    record = {"step": steps[-1], "loss": loss, "images_per_second": rate}
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    return folder


class UnbrokenRun:
    """Takes the place of `References`: a folder that exists."""

    def __init__(self, folder):
        self.folder = folder

    def get(self, name):
        return self.folder

    def data(self, name):
        return self.folder


@pytest.fixture
def broken(tmp_path):
    """A run with two good checkpoints, not running."""
    references = UnbrokenRun(write_run(tmp_path / "other", steps=(8, 24)))
    write_run(tmp_path / "home" / "run")
    return BrokenRun(SETTINGS["digits"], tmp_path / "home", references, Nursery(), random.Random(0))


def test_runs_that_differ_in_time_alone_are_equal(tmp_path):
    ours, theirs = write_run(tmp_path / "a"), write_run(tmp_path / "b", rate=3.0)
    assert compare_trainings(ours, theirs) == []


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"weight": 1 + 2**-23}, "task.weight"),
        ({"moment": -0.5}, "optimizer.state.0.momentum"),
        ({"loss": 2.0000001}, "metrics.jsonl[0].loss"),
        ({"steps": (8, 24)}, "last checkpoint"),
    ],
)
def test_the_least_difference_is_seen(tmp_path, change, where):
    ours, theirs = write_run(tmp_path / "a"), write_run(tmp_path / "b", **change)
    assert any(line.startswith(where) for line in compare_trainings(ours, theirs))


def test_the_sign_of_a_zero_is_a_difference_and_what_is_left_behind_too(tmp_path):
    ours, theirs = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    state = {"task": {"weight": torch.tensor([1.0, -0.0])}, "optimizer": {}}
    torch.save(state, ours / "checkpoints" / f"step-00000016-{16:016x}.pt")
    (ours / "checkpoints" / ".step-00000016.pt.7.partial").touch()
    found = compare_trainings(ours, theirs)
    assert [line.split(":")[0] for line in found] == ["task.weight", "optimizer", "left behind"]


def test_betons_are_compared_by_their_bytes(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.beton").write_bytes(b"12")
    assert compare_betons(tmp_path / "a", tmp_path / "b") == []
    (tmp_path / "b" / "train.beton").write_bytes(b"13")
    (tmp_path / "b" / "train.beton.names").touch()
    assert compare_betons(tmp_path / "a", tmp_path / "b") == [
        "train.beton: bytes differ",
        "train.beton.names: not in both",
    ]


@pytest.mark.parametrize("kind", [Truncate, Flip])
def test_damage_changes_the_newest_checkpoint_alone(broken, kind):
    older, newest = sorted(broken.folder.glob("checkpoints/*"))
    before = [path.read_bytes() for path in (older, newest)]
    assert kind().inject(broken)
    after = [path.read_bytes() for path in (older, newest)]
    assert after[0] == before[0]
    if kind is Flip:
        bits = int.from_bytes(before[1], "big") ^ int.from_bytes(after[1], "big")
        assert bits.bit_count() == 1
        assert len(after[1]) == len(before[1])
    else:
        assert len(after[1]) < len(before[1])
        assert before[1].startswith(after[1])
    assert (broken.good_checkpoints(), broken.bad_checkpoints()) == ([older], [newest])
    assert broken.floor == 8
    assert not kind().applies(broken)  # one good one is left


def test_a_foreign_file_is_never_taken_for_a_good_one(broken):
    good = broken.good_checkpoints()
    fault = Foreign()
    for add in (fault.add_other_run, fault.add_other_content, fault.replace_content):
        broken.mark_damaged(add(broken, good[-1]))
    assert step_of(broken.bad_checkpoints()[-1]) == 21
    assert broken.good_checkpoints() == good[:1]


class Ended:
    """A child that has ended and printed something."""

    def __init__(self, stdout, stderr=""):
        self.stdout, self.stderr, self.process = stdout, stderr, self
        self.returncode = 0


@pytest.mark.parametrize(
    ("stdout", "stderr", "problems"),
    [
        ("resuming at step 8\n", "checkpoint {} is not used: damaged", 0),
        ("resuming at step 0\n", "checkpoint {} is not used: damaged", 1),
        ("resuming at step 8\n", "", 1),
        ("", "", 1),
    ],
)
def test_a_resume_that_starts_elsewhere_or_says_nothing_is_noticed(
    broken, monkeypatch, stdout, stderr, problems
):
    Truncate().inject(broken)
    monkeypatch.setattr(broken.nursery, "start", lambda command, log: None)
    broken.start()
    broken.inspect_start(Ended(stdout, stderr.format(broken.bad_checkpoints()[0].name)))
    assert len(broken.problems) == problems


def test_a_checkpoint_that_is_gone_is_noticed(broken, monkeypatch):
    monkeypatch.setattr(broken.nursery, "start", lambda command, log: None)
    broken.remember_floor()
    broken.good_checkpoints()[-1].unlink()
    broken.start()
    assert broken.problems == ["launch 0: the checkpoint of step 16 is lost; the newest is of 8"]


def test_the_deck_deals_every_kind_and_the_same_again_for_a_seed():
    kinds = list(FAULTS.values())

    def deal(seed):
        deck = soak.Deck(kinds, seed)
        return [deck.deal() for _ in range(30)]

    hands = deal(0)
    assert hands == deal(0) != deal(1)
    assert {kind for hand in hands[:8] for kind in hand} == set(kinds)
    for hand in hands:
        assert len({kind.setting for kind in hand}) == 1
        assert not hand[0].at_rest  # nothing is there yet that could be damaged
        assert len(hand) <= soak.MOST_FAULTS + 1
    rare = sum(hand.count(RankDies) for hand in hands)
    assert 0 < rare < sum(hand.count(WriterDies) for hand in hands)


def test_every_training_is_one_that_pretrain_takes(tmp_path):
    for setting in SETTINGS.values():
        if setting.script != WRITE_BETON:
            command = setting.command(tmp_path / "run", tmp_path)
            start = command.index("--backbone")
            config = parse_options(PretrainOptions, command[start:])
            assert config.run_folder == tmp_path / "run"


def test_root_too_is_kept_out_of_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o555)
    try:
        command = without_privileges(["touch", str(tmp_path / "file")])
        assert subprocess.run(command, capture_output=True, check=False).returncode != 0
    finally:
        tmp_path.chmod(0o755)


def state_of(stat):
    """State letter of a process in /proc/PID/stat; X if it is gone."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def test_ending_a_soak_ends_what_it_has_started(tmp_path):
    nursery = Nursery()
    child = nursery.start(["bash", "-c", "sleep 1000 & echo $!; wait"], tmp_path / "log")
    assert child.wait_until(lambda: child.stdout.endswith("\n"))
    stat = Path("/proc") / child.stdout.strip() / "stat"
    assert stat.exists()
    nursery.close()
    child.wait(10)  # killed, or ended because its child was
    with pytest.raises(Interrupted):
        nursery.start(["true"], tmp_path / "log")
    deadline = time.monotonic() + 10  # init reaps the zombie when it likes
    while state_of(stat) not in "ZX":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_unbroken_run_that_fails_ends_the_soak_with_its_reason(tmp_path, monkeypatch):
    failing = Setting("digits", launcher=("-c", "import sys; sys.exit('no such thing')"))
    monkeypatch.setitem(SETTINGS, "digits", failing)
    with pytest.raises(RuntimeError, match="ended with 1: no such thing"):
        References(tmp_path, Nursery()).get("digits")


def test_the_last_line():
    tally = Tally()
    tally.faults.update(kill=2, flip=1)
    tally.runs.append({"differences": [], "problems": []})
    assert summarise(tally) == "chaos: 3 faults of 2 kinds; 1 run compared, 1 equal"
    assert tally.sound
    tally.runs.append({"differences": ["task.weight"], "problems": ["no warning"]})
    assert summarise(tally) == (
        "chaos: 3 faults of 2 kinds; 2 runs compared, 1 equal; 1 expectations not met"
    )
    assert not tally.sound


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minutes": 0}, "minutes=0 must be above 0"),
        ({"jobs": 0}, "jobs=0 must be 1 or more"),
        ({"faults": ","}, "faults=',' must be kinds of faults with commas between"),
    ],
)
def test_mistakes_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        ChaosOptions(**options)


def test_a_missing_psutil_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(ValueError, match=r"psutil is missing; pip install 'sslortho\[bench\]'"):
        processes.require_psutil()


def test_an_unknown_fault_and_a_folder_in_use_are_mistakes(tmp_path):
    with pytest.raises(ValueError, match="'earthquake' is not one of kill,"):
        choose_faults(("kill", "earthquake"))
    assert [kind.name for kind in choose_faults(("flip", "kill"))] == ["kill", "flip"]
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="not an empty folder"):
        prepare_out(str(tmp_path))


@pytest.mark.slow
def test_a_short_soak(tmp_path):
    out = tmp_path / "soak"
    done = chaos("--minutes", "0.05", "--faults", "kill", "--jobs", "1", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    last = "chaos: 1 fault of 1 kind; 1 run compared, 1 equal"
    assert done.stdout.splitlines()[-1] == last
    report = json.loads((out / "chaos.json").read_text())
    assert report["summary"] == last
    assert report["faults"] == {"kill": 1}
    (run,) = report["runs"]
    assert run["faults"] == ["kill"]
    assert not list(out.glob("run-*"))  # it ended well
