"""Set up every process that runs tests: its threads and signals."""

import os
import signal

# two processes run the tests side by side, so each of them, and what it starts, takes one thread
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# a background shell has SIGINT ignored, nohup SIGHUP, and so would all that the tests start
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)
