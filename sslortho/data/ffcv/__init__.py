"""The .beton format: written, checked, and read through FFCV."""
