"""A finished run once more, compared: `python scripts/reproduce_run.py runs/x`."""

from sslortho.cli import run_script


def main() -> None:
    run_script("reproduce_run")


if __name__ == "__main__":
    main()
