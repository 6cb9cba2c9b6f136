"""Weights of ours and of others, read without running anything, into a backbone, checked."""
