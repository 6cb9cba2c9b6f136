"""Map of features in the plane: `python scripts/feature_map.py photos.npz --out map.png`."""

from sslortho.cli import run_script


def main() -> None:
    run_script("feature_map")


if __name__ == "__main__":
    main()
