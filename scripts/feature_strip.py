"""Features while they form: `python scripts/feature_strip.py runs/x --out strip.png`."""

from sslortho.cli import run_script


def main() -> None:
    run_script("feature_strip")


if __name__ == "__main__":
    main()
