"""Photometry of a batch as one compiled graph of fixed shapes."""
