"""Plain renderers with torch: crops of a batch of one image size, and the photometric reference."""
