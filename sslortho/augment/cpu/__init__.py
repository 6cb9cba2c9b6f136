"""Fused kernels: one decoded image to its finished views, without the GIL."""
