"""The only training loop, its checkpoints and records, ranks and signals."""
