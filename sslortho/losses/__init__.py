"""Self-supervised losses. Needs torch alone."""

from sslortho.losses.barlow_twins import BarlowTwinsLoss
from sslortho.losses.ntxent import NTXentLoss
from sslortho.losses.vicreg import VICRegLoss

__all__ = ["BarlowTwinsLoss", "NTXentLoss", "VICRegLoss"]
