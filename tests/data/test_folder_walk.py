"""Files found below a folder, and the links that lead to them."""

import inspect
import os
import sys

import pytest

from sslortho.data.folder_walk import Links, list_files, list_folders, walk_files


def make(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def walk(folder, data_dir=None, follow=False):
    return list(walk_files(folder, Links(data_dir or folder, follow)))


def test_all_files_in_the_order_of_a_sorted_walk(tmp_path):
    for name in ["b/x", "b/a/y", "a", "c/d/e/z", "B", "b.x/q", "a0/.hidden", ".git/x", "c/d/.h/y"]:
        make(tmp_path / name)
    expected = []
    for place, folders, files in os.walk(tmp_path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        expected += [f"{place}/{name}" for name in sorted(files) if not name.startswith(".")]
    assert len(expected) == 6
    assert walk(tmp_path) == expected
    assert list_files(tmp_path) == ["B", "a"]
    assert list_folders(tmp_path) == ["a0", "b", "b.x", "c"]


def test_files_are_not_looked_at_one_by_one(tmp_path, monkeypatch):
    for i in range(100):
        make(tmp_path / "a" / str(i))
    calls = []
    for name in ("stat", "lstat"):
        plain = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, _plain=plain, **k: calls.append(a) or _plain(*a, **k)
        )
    (tmp_path / "a").stat()
    assert calls  # the count counts
    found = (walk(tmp_path), list_files(tmp_path / "a"), list_folders(tmp_path / "a"))
    monkeypatch.undo()
    assert [len(names) for names in found] == [100, 100, 0]
    assert len(calls) < 50  # of the folders above, to resolve links in their names


def test_folders_deeper_than_pythons_stack(tmp_path):
    path = make(tmp_path.joinpath(*"d" * 200, "x"))
    links, limit = Links(tmp_path, False), sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        found = list(walk_files(tmp_path, links))
    finally:
        sys.setrecursionlimit(limit)
    assert found == [str(path)]


@pytest.mark.parametrize("target", ["a", ".", "b"])
def test_circles_end(tmp_path, target):
    make(tmp_path / "data" / "a" / "x")
    make(tmp_path / "data" / "b" / "y")
    (tmp_path / "data" / "b" / "back").symlink_to(tmp_path / "data" / "a")
    (tmp_path / "data" / "a" / "round").symlink_to(tmp_path / "data" / target)
    for folder in ("a", "b"):
        with pytest.raises(ValueError, match=r"(round|back) is a link to a folder that it lies in"):
            walk(tmp_path / "data" / folder, tmp_path / "data")


def test_a_link_to_itself_leads_nowhere(tmp_path):
    (tmp_path / "x.jpg").symlink_to(tmp_path / "x.jpg")
    with pytest.raises(ValueError, match=r"x\.jpg is a link to .* which does not exist"):
        walk(tmp_path)


def test_a_data_set_that_is_itself_reached_by_a_link(tmp_path):
    path = make(tmp_path / "real" / "a" / "x")
    (tmp_path / "real" / "a" / "y").symlink_to(path)
    (tmp_path / "data").symlink_to(tmp_path / "real")
    assert walk(tmp_path / "data") == [f"{tmp_path}/data/a/{name}" for name in "xy"]


def test_a_folder_whose_name_begins_like_the_data_sets_is_outside(tmp_path):
    path = make(tmp_path / "data_private" / "x")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").symlink_to("../data_private/x")
    with pytest.raises(ValueError, match=f"data/x is a link that leads out .* to {path}"):
        walk(tmp_path / "data")
    assert walk(tmp_path / "data", follow=True) == [f"{tmp_path}/data/x"]


def test_a_link_by_way_of_a_link_within_is_judged_by_its_end(tmp_path):
    make(tmp_path / "secret")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / ".hop").symlink_to(tmp_path)
    (tmp_path / "data" / "x").symlink_to(".hop/secret")
    with pytest.raises(ValueError, match="data/x is a link that leads out"):
        walk(tmp_path / "data")


def test_files_behind_a_folder_link_are_judged_too(tmp_path):
    """The second link leaves the data set, and is met only through the first."""
    make(tmp_path / "secret")
    (tmp_path / "data" / "other").mkdir(parents=True)
    (tmp_path / "data" / "other" / "x").symlink_to(tmp_path / "secret")
    (tmp_path / "data" / "train").mkdir()
    (tmp_path / "data" / "train" / "a").symlink_to(tmp_path / "data" / "other")
    with pytest.raises(ValueError, match="train/a/x is a link that leads out"):
        walk(tmp_path / "data" / "train", tmp_path / "data")


@pytest.mark.parametrize("follow", [False, True])
def test_a_link_to_a_device_is_not_opened(tmp_path, follow):
    (tmp_path / "x.jpg").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"x\.jpg is (a link that leads|not a regular file)"):
        walk(tmp_path, follow=follow)
