"""Search for hyperparameters: `python scripts/tune.py --config tune_table1 --data_dir D`."""

from sslortho.cli import run_script


def main() -> None:
    run_script("tune")


if __name__ == "__main__":
    main()
