"""The notebooks run from top to bottom, at small scale."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent.parent / "examples" / "notebooks"
SMALL = {
    "own_images": "EPOCHS = 1",
    "swap_the_optimizer": "EPOCHS = 2\nRATES = {'SGD': [0.1], 'OrthSGD': [0.01]}",
    "features_forming": (
        "EPOCHS = 2\nOPTIONS = {'subset': 64, 'batch_size': 16, 'warmup_epochs': 0, 'threads': 1}"
    ),
}
"""Name of a notebook to a cell that follows its parameters."""


def test_every_notebook_is_run():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(SMALL)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")  # of the kernel's own machinery
@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOKS.parent.parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    book = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    tags = [cell.metadata.get("tags", []) for cell in book.cells]
    [place] = [i for i, names in enumerate(tags) if "parameters" in names]
    book.cells.insert(place + 1, nbformat.v4.new_code_cell(SMALL[name]))
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(book, timeout=500, kernel_name="python3", resources=resources).execute()
    pictures = [
        output
        for cell in book.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert pictures
