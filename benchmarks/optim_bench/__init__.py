"""Parts of bench_optim.py."""
