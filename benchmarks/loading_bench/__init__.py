"""Parts of bench_loading.py."""
