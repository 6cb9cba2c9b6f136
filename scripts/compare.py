"""Table of runs, seeds taken together: `python scripts/compare.py runs/*`."""

from sslortho.cli import run_script


def main() -> None:
    run_script("compare")


if __name__ == "__main__":
    main()
