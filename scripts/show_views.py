"""Picture of the views that pretraining sees: `python scripts/show_views.py --out views.png`."""

from sslortho.cli import run_script


def main() -> None:
    run_script("show_views")


if __name__ == "__main__":
    main()
