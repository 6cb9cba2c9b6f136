"""Parts of growth.py: what is measured, how, and how it is shown."""
