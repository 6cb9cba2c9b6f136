"""Nearest neighbours on frozen features: `python scripts/knn_eval.py --backbone_from runs/x`."""

from sslortho.cli import run_script


def main() -> None:
    run_script("knn_eval")


if __name__ == "__main__":
    main()
