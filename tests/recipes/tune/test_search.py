import errno
import fcntl
import math
import os

import pytest
from optuna.trial import TrialState

from sslortho.recipes.tune.search import Range, Search, hold_search

RANGES = (Range("lr", 1e-3, 1.0, True), Range("momentum", 0.0, 0.9, False))


@pytest.fixture
def search(tmp_path):
    def search(ranges=RANGES, maximise=True, **settings):
        return Search(
            tmp_path, ranges, maximise=maximise, seed=0, settings={"epochs": 3, **settings}
        )

    return search


def test_a_folder_is_held_by_one_at_a_time(tmp_path):
    folder = tmp_path / "new"
    other = pytest.raises(ValueError, match="another search is at work there")
    with hold_search(folder), other, hold_search(folder):
        pass
    with hold_search(folder):
        pass


def test_a_file_system_without_locks_does_not_end_a_search(tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with hold_search(tmp_path / "search"):
        assert (tmp_path / "search" / "study.lock").exists()


def test_settings_that_both_know_must_be_the_same(search):
    search(augment=True)
    search(smoothing=0.1)
    with pytest.raises(ValueError, match=r"other settings: epochs \(3 there, 4 here\)"):
        search(epochs=4)


@pytest.mark.parametrize("ranges", [RANGES[:1], (*RANGES, Range("wd", 1e-3, 1.0, True))])
def test_what_is_searched_must_be_the_same(search, ranges):
    search()
    with pytest.raises(ValueError, match=r"other ranges: (momentum|wd)"):
        search(ranges)


def test_a_trial_that_was_never_drawn_has_failed_and_one_that_was_is_open(search):
    first = search()
    drawn = first.draw()
    undrawn = first.study.ask()
    again = search()
    assert again.open_trials() == [drawn]
    assert again.study.trials[undrawn.number].state == TrialState.FAIL
    assert (again.completed, again.failed) == (0, 1)


@pytest.mark.parametrize(("maximise", "order"), [(True, [4, 2, 1]), (False, [1, 2, 4])])
def test_the_best_come_first_and_those_that_diverged_do_not_count(search, maximise, order):
    found = search(maximise=maximise)
    assert found.worst == (0.0 if maximise else math.inf)
    for value in (2.0, found.worst, 4.0, None, 1.0):
        found.tell(found.draw(), value)
    assert [trial.value for trial in found.ranking()] == order
    assert (found.completed, found.failed) == (4, 1)
