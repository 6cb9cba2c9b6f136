"""Images nearest to an image: `python scripts/neighbours.py photos.npz holiday.jpg`."""

from sslortho.cli import run_script


def main() -> None:
    run_script("neighbours")


if __name__ == "__main__":
    main()
