"""Two processes run the tests side by side, so each of them, and what it starts, takes one thread."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
