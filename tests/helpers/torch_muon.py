"""torch.optim.Muon, which older releases lack or have without some scales."""

import pytest
import torch
from torch import nn

TORCHS = {"muon": "original", "moonlight": "match_rms_adamw", "spectral": "spectral_unclamped"}
"""torch's names of our scales."""


def skip_without_muon(scale: str = "muon") -> None:
    """Skip a test where this torch has no Muon with a scale."""
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("Muon came with torch 2.9")
    try:
        torch.optim.Muon([nn.Parameter(torch.ones(2, 2))], adjust_lr_fn=TORCHS[scale])
    except ValueError:
        pytest.skip(f"Muon of torch {torch.__version__} has no scale {TORCHS[scale]}")
