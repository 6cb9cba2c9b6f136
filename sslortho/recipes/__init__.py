"""A command each: its options, its resolve, its run."""
