"""Self-supervised pretraining: `accelerate launch scripts/pretrain.py --optim orth_lars`.

Writes one run folder; the same command on the same folder resumes.
"""

from sslortho.cli import run_script


def main() -> None:
    run_script("pretrain")


if __name__ == "__main__":
    main()
