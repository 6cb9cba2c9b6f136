"""Parts of `speedrun.py`."""
