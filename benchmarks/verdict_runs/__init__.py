"""Runs that are healthy, and runs that are broken on purpose, to calibrate the verdicts by."""
