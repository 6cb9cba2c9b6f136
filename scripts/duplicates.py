"""Duplicates among images: `python scripts/duplicates.py photos.npz`."""

from sslortho.cli import run_script


def main() -> None:
    run_script("duplicates")


if __name__ == "__main__":
    main()
