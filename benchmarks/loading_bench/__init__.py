"""What bench_loading.py is made of."""
