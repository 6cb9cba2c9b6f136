"""Plain renderers, sample by sample or with torch."""
