"""Linear evaluation or fine-tuning: `accelerate launch scripts/linear_eval.py --backbone_from runs/x`.

Writes one run folder; the same command on the same folder resumes.
"""

from sslortho.cli import run_script


def main() -> None:
    run_script("linear_eval")


if __name__ == "__main__":
    main()
