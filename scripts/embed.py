"""Features of images in a file: `python scripts/embed.py runs/x --data photos --out photos.npz`."""

from sslortho.cli import run_script


def main() -> None:
    run_script("embed")


if __name__ == "__main__":
    main()
