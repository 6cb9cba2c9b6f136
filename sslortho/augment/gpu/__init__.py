"""Photometric views as one graph of fixed shapes."""
