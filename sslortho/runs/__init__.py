"""A run folder: layout, records, provenance; comparing and running again."""
