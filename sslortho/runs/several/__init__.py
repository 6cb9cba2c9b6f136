"""Several runs: many started side by side, many compared in a table, two compared bit by bit."""
