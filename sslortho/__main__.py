"""`python -m sslortho COMMAND`, also under launchers: `accelerate launch -m sslortho pretrain`."""

from sslortho.cli import main

main()
