"""Curves of several runs in one picture: `python scripts/plot_runs.py runs/a runs/b`."""

from sslortho.cli import run_script


def main() -> None:
    run_script("plot_runs")


if __name__ == "__main__":
    main()
