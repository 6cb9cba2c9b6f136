"""Set up every process that runs tests: its threads and signals."""

import os
import signal

import pytest

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


@pytest.fixture(autouse=True, scope="session")
def float32_on_every_cpu():
    """Let the precision that `pretrain` chooses in this process not depend on its processor."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        if hasattr(torch.cpu, "get_capabilities"):
            patch.setattr(torch.cpu, "get_capabilities", dict)
        yield


@pytest.fixture
def set_threads():
    """Sets the number of torch's threads; afterwards it is as before, whatever the test did."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def pytest_runtest_setup(item):
    """Skip tests for a GPU where there is none; helpers.gpu has those that a CPU can rehearse."""
    mark = item.get_closest_marker("gpu")
    if mark is None:
        return
    rehearsed = os.environ.get("SSLORTHO_REHEARSE_GPU") == "1" and mark.kwargs.get("rehearsable")
    import torch

    if not rehearsed and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
