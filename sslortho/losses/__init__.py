"""Self-supervised losses. Needs torch alone."""

from sslortho.losses.barlow_twins import BarlowTwinsLoss

__all__ = ["BarlowTwinsLoss"]
