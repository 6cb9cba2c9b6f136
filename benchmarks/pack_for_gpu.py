"""Pack what a GPU machine without internet lacks for gpu_proof.py: wheels, CIFAR-10 and photographs.

    python benchmarks/pack_for_gpu.py --cifar cifar10.tar.xz --photographs photographs.tar --out gpu_pack

There, in the checkout: `sh gpu_pack/unpack.sh`, which prints the command to go on with. The machine must
have torch and torchvision; a package that it has already does no harm.
"""

import argparse
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

WITH_NEEDS = ("jsonargparse[signatures]", "pydantic")
"""Packages whose needs are small, and pinned by them to versions of their own."""

ALONE = (
    "lightly", "lightly-utils", "hydra-core", "omegaconf<2.4", "aenum", "simplejpeg", "kornia", "kornia_rs",
    "expecttest",
)  # fmt: skip
"""Packages without what they need: torch is there, and the rest is in this list."""

FROM_SOURCE = ("antlr4-python3-runtime==4.9.3",)
"""Packages of pure Python without a wheel; omegaconf before 2.4, as hydra-core wants it, needs this version."""

PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")

MIB = 1 << 20

UNPACK = """#!/bin/sh
# Installs the wheels into a folder here, and unpacks the data.
set -e
checkout=$(pwd)
cd "$(dirname "$0")"
here=$(pwd)
path=$checkout
command="python3 benchmarks/gpu_proof.py --minutes 30"
if [ -d wheels ]; then
  python3 -m pip install -q --no-index --no-deps --no-compile --upgrade --target site wheels/*.whl
  path=$path:$here/site
fi
for name in cifar photographs; do
  for file in "$name".tar*; do
    if [ -e "$file" ]; then mkdir -p "$name" && tar -C "$name" -xf "$file"; fi
  done
  if [ -d "$name" ]; then command="$command --$name '$here/$name'"; fi
done
printf "%s\\n" "export PYTHONPATH='$path'" "$command"
"""


def pip_commands(python: str, wheels: Path, extra: Sequence[str]) -> list[list[str]]:
    """Commands that put the wheels into a folder.

    Args:
        python: version there, such as "3.12".
        wheels: the folder.
        extra: further packages, or folders of their source.
    """
    pip = [sys.executable, "-m", "pip"]
    there = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    there += [part for platform in PLATFORMS for part in ("--platform", platform)]
    download = [*pip, "download", "-q", "-d", str(wheels), *there]
    build = [*pip, "wheel", "-q", "--no-deps", "-w", str(wheels)]
    commands = [[*download, *WITH_NEEDS], [*download, "--no-deps", *ALONE], [*build, *FROM_SOURCE]]
    return [*commands, [*build, *extra]] if extra else commands


def find_size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def copy_archive(source: Path, name: str, folder: Path) -> None:
    """Copy an archive under another name; its endings stay. Raises ValueError if there is none."""
    if not source.is_file() or not tarfile.is_tarfile(source):
        raise ValueError(f"{name}={str(source)!r} is not a tar archive")
    suffixes = source.suffixes
    endings = suffixes[suffixes.index(".tar") :] if ".tar" in suffixes else [".tar"]
    shutil.copyfile(source, folder / f"{name}{''.join(endings)}")


def choose_photographs(source: Path, target: Path, most_bytes: int, most: int) -> int:
    """Write some of an archive's images into another one, evenly spread; their number.

    Args:
        source, target: archives.
        most_bytes: size of the new archive at most.
        most: number at most.
    """
    with tarfile.open(source) as archive:
        members = [m for m in archive if m.isfile() and m.name.lower().endswith((".jpg", ".jpeg"))]
        members.sort(key=lambda member: member.name)
        count = min(most, len(members))
        while count and _sum_sizes(_spread(members, count)) > most_bytes:
            count -= 1
        with tarfile.open(target, "w") as chosen:
            for member in _spread(members, count):
                chosen.addfile(member, archive.extractfile(member))
    return count


def _spread(members: Sequence[tarfile.TarInfo], count: int) -> list[tarfile.TarInfo]:
    return [members[i * len(members) // count] for i in range(count)]


def _sum_sizes(members: Sequence[tarfile.TarInfo]) -> int:
    """Bytes of an archive of these members: headers, blocks of 512, two empty ones, whole records."""
    blocks = sum(len(m.tobuf()) + (m.size + 511) // 512 * 512 for m in members) + 1024
    return -(-blocks // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def pack(given: argparse.Namespace) -> str:
    """Fill the folder; what is in it, in words. Raises ValueError if it is too large."""
    out: Path = given.out
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"out={str(out)!r} is not empty; remove it, or give another one")
    out.mkdir(parents=True, exist_ok=True)
    if given.wheels:
        for command in pip_commands(given.python, out / "wheels", given.package):
            subprocess.run(command, check=True)
    if given.cifar is not None:
        copy_archive(given.cifar, "cifar", out)
    (out / "unpack.sh").write_text(UNPACK)
    left = int(given.limit_mib * MIB) - find_size(out)
    if left < 0:
        raise ValueError(
            f"{out} takes {find_size(out) / MIB:.0f} MiB, limit_mib={given.limit_mib:g}; leave something out"
        )
    count = 0
    if given.photographs is not None:
        target = out / "photographs.tar"
        count = choose_photographs(given.photographs, target, left, given.photograph_count)
    wheels = len(list((out / "wheels").glob("*.whl")))
    return f"{out}: {wheels} wheels, {count} photographs, {find_size(out) / MIB:.1f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("gpu_pack"), help="folder to fill")
    parser.add_argument("--python", default="3.12", help="version of Python there")
    parser.add_argument("--cifar", type=Path, help="archive that holds train/CLASS and test/CLASS")
    parser.add_argument("--photographs", type=Path, help="archive of photographs; some are taken")
    parser.add_argument("--photograph_count", type=int, default=200, help="at most so many of them")
    parser.add_argument(
        "--package", action="append", default=[], help="a further package or source"
    )
    parser.add_argument(
        "--limit_mib", type=float, default=56, help="size of it all; 64 less the checkout"
    )
    parser.add_argument(
        "--no_wheels", dest="wheels", action="store_false", help="data alone: the machine has pip"
    )
    given = parser.parse_args()
    try:
        print(pack(given))
    except ValueError as error:
        parser.error(str(error))
    except subprocess.CalledProcessError as error:
        parser.exit(1, f"pack_for_gpu.py: pip failed: {' '.join(map(str, error.cmd))}\n")


if __name__ == "__main__":
    main()
