"""The notebooks run from top to bottom, at small scale; what is stored of them is of their sources."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS, PAGES = ROOT / "examples" / "notebooks", ROOT / "docs" / "notebooks"
MOST_BYTES = 1_500_000
"""Largest size of a notebook: a larger one is slow to open."""
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
    assert {path.stem for path in PAGES.glob("*.md")} == set(SMALL)


def load_writer():
    path = NOTEBOOKS / "write_notebooks.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    return writer


@pytest.mark.parametrize("name", SMALL)
def test_what_is_stored_is_of_the_source(name):
    stored = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(stored)
    writer = load_writer()
    made = writer.create_notebook(NOTEBOOKS / f"{name}.py")
    assert [(c.cell_type, c.source, c.metadata) for c in stored.cells] == [
        (c.cell_type, c.source, c.metadata) for c in made.cells
    ]
    text, pictures = writer.to_page(stored, name)
    assert (PAGES / f"{name}.md").read_text() == text
    files = {path.name: path.read_bytes() for path in PAGES.glob(f"{name}_*")}
    assert files == pictures


@pytest.mark.parametrize("name", SMALL)
def test_a_stored_notebook_was_run_and_names_no_machine(name):
    path = NOTEBOOKS / f"{name}.ipynb"
    assert path.stat().st_size < MOST_BYTES
    code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    assert all(output.output_type != "error" for output in outputs)
    texts = [output.get("text", "") for output in outputs]
    texts += [str(output.get("data", {}).get("text/plain", "")) for output in outputs]
    assert not re.search(r"/(tmp|home|root|work|Users|mnt|var)/", "\n".join(texts))
    assert any("image/png" in output.get("data", {}) for output in outputs)


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
