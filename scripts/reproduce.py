"""Experiments of the paper: `python scripts/reproduce.py table3 --data_dir D`."""

from sslortho.cli import run_script


def main() -> None:
    run_script("reproduce")


if __name__ == "__main__":
    main()
