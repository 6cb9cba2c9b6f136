"""The experiments of arXiv 2202.07052: grids and reports."""
