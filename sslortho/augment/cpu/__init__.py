"""Fused kernels: one image to its finished views, without the GIL."""
