"""Self-supervised losses. Needs torch alone."""

from sslortho.losses.barlow_twins import BarlowTwinsLoss
from sslortho.losses.emp_ssl import EMPSSLLoss
from sslortho.losses.lejepa import LeJEPALoss
from sslortho.losses.ntxent import NTXentLoss
from sslortho.losses.sigreg import SIGReg, draw_slices
from sslortho.losses.vicreg import VICRegLoss

__all__ = [
    "BarlowTwinsLoss",
    "EMPSSLLoss",
    "LeJEPALoss",
    "NTXentLoss",
    "SIGReg",
    "VICRegLoss",
    "draw_slices",
]
