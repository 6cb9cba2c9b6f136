"""Files that are either whole or absent."""

import pytest

from sslortho.atomic import atomic_file, find_partials


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def half(file):
        file.write(b"new, but")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), atomic_file(path) as file:
        half(file)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_file(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
        assert len(find_partials(path)) == 1
    assert path.read_text() == "new"
    assert find_partials(path) == []


def test_a_name_may_depend_on_the_content(tmp_path):
    with atomic_file(tmp_path / "file", lambda: tmp_path / "file-3") as file:
        file.write(b"abc")
    assert [path.name for path in tmp_path.iterdir()] == ["file-3"]


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    real, link = tmp_path / "disk" / "file", tmp_path / "link"
    real.parent.mkdir()
    real.write_text("old")
    link.symlink_to(real)
    with atomic_file(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_two_writers_of_a_path_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with atomic_file(path) as first, atomic_file(path) as second:
        first.write(b"one")
        second.write(b"two")
        assert len(find_partials(path)) == 2
    assert path.read_text() == "one"  # the last to be complete


def test_partials_of_another_name_are_not_taken(tmp_path):
    with atomic_file(tmp_path / "x.beton.json"):
        assert find_partials(tmp_path / "x.beton") == []
