"""Classification from scratch: `accelerate launch scripts/supervised.py --backbone resnet20`.

Writes one run folder; the same command on the same folder resumes.
"""

from sslortho.cli import run_script


def main() -> None:
    run_script("supervised")


if __name__ == "__main__":
    main()
