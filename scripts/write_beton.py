"""Data set as one .beton file: `python scripts/write_beton.py --data_dir D --out B/train.beton`."""

from sslortho.cli import run_script


def main() -> None:
    run_script("write_beton")


if __name__ == "__main__":
    main()
