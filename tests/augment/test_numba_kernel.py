"""Kernels that are kept on disk are those of the present code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sslortho
from sslortho.augment import numba_kernel

PACKAGE = Path(sslortho.__file__).parent
PROGRAM = """
import numpy as np
from sslortho.augment.cpu.view_kernel import PADDING, SCALE, SETTINGS, choose_window
settings = np.zeros(SETTINGS)
settings[PADDING], settings[SCALE : SCALE + 4] = -1, (0.2, 0.4, 0.5, 2.0)
window = choose_window(np.full(23, 0.5), settings, 100, 100)
print(window[1], choose_window.stats.cache_hits and "kept" or "compiled")
"""


def run(folder: Path) -> tuple[float, str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "NUMBA_CACHE_DIR": str(folder / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM], env=environment, cwd=folder, capture_output=True,
        text=True, timeout=200, check=True,
    )  # fmt: skip
    value, how = done.stdout.split()
    return float(value), how


@pytest.mark.slow
def test_a_change_in_a_file_that_a_kernel_calls_into_is_seen(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "sslortho", ignore=shutil.ignore_patterns("__pycache__"))
    # area 30 of 100 x 100 per cent, ratio 1
    assert run(tmp_path) == (55, "compiled")
    assert run(tmp_path) == (55, "kept")
    called = tmp_path / "sslortho" / "augment" / "draws" / "crops.py"
    called.write_text(called.read_text().replace("np.sqrt(area / shape)", "7.0"))
    assert run(tmp_path) == (7, "compiled")


def test_without_a_folder_to_keep_it_in_a_kernel_is_compiled_each_time(monkeypatch):
    def refuse(*arguments, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compile_(*arguments, **options)

    compile_ = numba_kernel.njit
    monkeypatch.setattr(numba_kernel, "njit", refuse)
    compiled = numba_kernel.kernel(lambda x: x + 1)
    assert compiled(2) == 3
    assert not numba_kernel.is_kept(compiled)
