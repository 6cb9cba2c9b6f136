import json
import math
import os

import pytest
import torch
from accelerate import Accelerator

from sslortho.recipes.options import RunOptions
from sslortho.recipes.pretrain.options import PretrainOptions
from sslortho.runs.folder import RunFolder
from sslortho.runs.lock import is_held
from sslortho.runs.status import read_status


def test_a_summary_is_strict_json(tmp_path):
    nan, inf = math.nan, math.inf
    findings = [{"name": "diverging", "value": nan, "threshold": inf, "limits": (-inf, 1.0)}]
    summary = {"loss": inf, "top1": 90.0, "verdict": {"name": "diverging", "findings": findings}}
    RunFolder(tmp_path).write_summary(summary)

    def refuse(constant):
        raise AssertionError(constant)

    text = (tmp_path / "summary.json").read_text()
    found = [{"name": "diverging", "value": None, "threshold": None, "limits": [None, 1.0]}]
    assert json.loads(text, parse_constant=refuse) == {
        "loss": None, "top1": 90.0, "verdict": {"name": "diverging", "findings": found},
    }  # fmt: skip


def test_a_finished_run_says_so(tmp_path, capsys):
    folder = RunFolder(tmp_path)
    assert folder.finished_summary() is None
    folder.write_summary({"top1": 90.0})
    assert folder.finished_summary() == {"top1": 90.0}
    assert "finished already" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b'{"top1": 9', b"", b"[90.0]", b"\xff\xfe"])
def test_a_broken_summary_is_not_taken_for_a_result(tmp_path, content):
    folder = RunFolder(tmp_path)
    folder.summary.write_bytes(content)
    assert folder.read_summary() is None
    with pytest.raises(
        ValueError, match=r"summary\.json is broken \(.+\); delete it, and the run's command"
    ):
        folder.finished_summary()


def test_what_stops_a_beginning_is_told_and_leaves_the_folder_free(tmp_path):
    (tmp_path / "views.png").mkdir()
    folder, options = RunFolder(tmp_path), RunOptions()
    with pytest.raises(OSError, match=r"views\.png"):
        folder.prepare(Accelerator(cpu=True), options, (torch.zeros(2, 3, 4, 4),) * 2)
    assert read_status(tmp_path).state == "failed"
    assert not is_held(tmp_path / ".lock")


def test_a_place_where_nothing_may_be_written_is_told_before_anything_else(tmp_path, monkeypatch):
    monkeypatch.setattr(
        os, "access", lambda path, mode: path != tmp_path
    )  # root may write anywhere
    with pytest.raises(ValueError, match=f"out=.*: {tmp_path} cannot be written to"):
        RunFolder(tmp_path / "a" / "b").check_same(PretrainOptions.of())
    RunFolder(tmp_path.parent / "c").check_same(PretrainOptions.of())
