"""pack_for_gpu.py without the internet: data and the script that unpacks them; pip is not called."""

import io
import shlex
import subprocess
import tarfile
from pathlib import Path

import pytest
from helpers.script_runs import call_script, load_script


def write_archive(path, files):
    mode = "w:xz" if path.suffix == ".xz" else "w"
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def archives(tmp_path):
    cifar = write_archive(
        tmp_path / "small.images.tar.xz", {"train/cat/0.jpg": b"c", "test/cat/0.jpg": b"t"}
    )
    photographs = {f"in/{i:03}.JPEG": bytes([i]) * 1000 for i in range(100)}
    return cifar, write_archive(tmp_path / "p.tar", {**photographs, "in/readme.txt": b"no image"})


def test_data_come_out_as_they_went_in(archives, tmp_path):
    cifar, photographs = archives
    out = tmp_path / "pack"
    done = call_script(
        "pack_for_gpu", "--out", out, "--no_wheels", "--cifar", cifar, "--photographs", photographs,
        "--photograph_count", 10,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "0 wheels, 10 photographs" in done.stdout
    command = ["sh", out / "unpack.sh"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (out / "cifar" / "train" / "cat" / "0.jpg").read_bytes() == b"c"
    assert (out / "cifar" / "test" / "cat" / "0.jpg").read_bytes() == b"t"
    found = sorted((out / "photographs" / "in").iterdir())
    assert [path.read_bytes()[0] for path in found] == list(range(0, 100, 10))
    assert f"--cifar '{out}/cifar' --photographs '{out}/photographs'" in told.stdout
    again = call_script("pack_for_gpu", "--out", out, "--no_wheels")
    assert again.returncode == 2
    assert "is not empty" in again.stderr


def test_the_command_names_what_was_packed_alone_and_holds_spaces(archives, tmp_path):
    out = tmp_path / "a pack"
    done = call_script("pack_for_gpu", "--out", out, "--no_wheels", "--cifar", archives[0])
    assert done.returncode == 0, done.stderr
    command = ["sh", out / "unpack.sh"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    export, proof = map(shlex.split, told.stdout.splitlines())
    assert export == ["export", f"PYTHONPATH={tmp_path}"]
    assert proof[-4:] == ["--minutes", "30", "--cifar", f"{out}/cifar"]


@pytest.mark.parametrize("most", [11_000, 30_000, 60_000])
def test_photographs_fill_what_is_left_and_no_more(archives, tmp_path, most):
    choose = load_script("pack_for_gpu").choose_photographs
    target = tmp_path / "chosen.tar"
    count = choose(archives[1], target, most, 1000)
    assert target.stat().st_size <= most
    assert target.stat().st_size > most - 10_240 - 1_536  # tar fills records of 10,240 bytes
    with tarfile.open(target) as archive:
        assert len(archive.getnames()) == count


def test_what_is_too_large_or_no_archive_is_named(archives, tmp_path):
    for arguments, message in {
        ("--cifar", archives[0], "--limit_mib", "0.0001"): "limit_mib=0.0001",
        ("--cifar", Path(__file__)): "is not a tar archive",
    }.items():
        done = call_script("pack_for_gpu", "--out", tmp_path / "p", "--no_wheels", *arguments)
        assert done.returncode == 2
        assert message in done.stderr
        for path in (tmp_path / "p").iterdir():
            path.unlink()


def test_pip_is_asked_for_wheels_of_the_other_python():
    *downloads, build, extra = load_script("pack_for_gpu").pip_commands("3.12", Path("w"), ["./x"])
    for command in downloads:
        assert command[command.index("--python-version") + 1] == "3.12"
        assert "--only-binary=:all:" in command
    assert extra == [*build[:-1], "./x"]
    assert "--no-deps" in build
