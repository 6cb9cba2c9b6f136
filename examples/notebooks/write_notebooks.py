"""Run the notebooks and store them with their outputs: `python examples/notebooks/write_notebooks.py NAME`.

NAME.py is the source, in cells that begin with `# %%`. Written are NAME.ipynb, and docs/notebooks/NAME.md with its
pictures, which is its page in the documentation. The notebook runs in --folder; own_images looks for images
in its subfolder photos. Where only text has changed nothing is run: the stored outputs stay.
"""

import argparse
import base64
import io
import re
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
PAGES = HERE.parent.parent / "docs" / "notebooks"

NOISE = re.compile(r"\d+%\||\d+it \[|TqdmWarning|from .autonotebook import")
"""Sign of a progress bar, and of the warning that a notebook without ipywidgets has none of its own."""
KINDS = {"image/png": "png", "image/gif": "gif"}


def read_cells(path: Path) -> list[tuple[str, list[str], str]]:
    """Cells of a source as (kind, tags, text): "markdown" or "code"."""
    cells = []
    for block in re.split(r"(?m)^# %%", path.read_text())[1:]:
        head, _, text = block.partition("\n")
        kind = "markdown" if "[markdown]" in head else "code"
        if kind == "markdown":
            text = re.sub(r"(?m)^# ?", "", text)
        cells.append((kind, re.findall(r'"(\w+)"', head), text.strip()))
    return cells


def create_notebook(path: Path) -> Any:
    """The notebook of a source, without outputs."""
    book = nbformat.v4.new_notebook()
    book.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, (kind, tags, text) in enumerate(read_cells(path)):
        create = nbformat.v4.new_markdown_cell if kind == "markdown" else nbformat.v4.new_code_cell
        cell = create(text, id=f"cell-{number}")
        if tags:
            cell.metadata["tags"] = tags
        book.cells.append(cell)
    return book


def clean(book: Any) -> None:
    """Make outputs small, and leave out progress bars, times, and the text that stands in for a picture."""
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        kept = []
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                lines = re.split(r"[\r\n]+", output.text)
                output.text = "".join(f"{x}\n" for x in lines if x.strip() and not NOISE.search(x))
                if not output.text:
                    continue
                if kept and kept[-1].output_type == "stream" and kept[-1].name == output.name:
                    kept[-1].text += output.text
                    continue
            elif KINDS.keys() & output.get("data", {}).keys():
                output.data.pop("text/plain", None)
                if "image/png" in output.data:
                    output.data["image/png"] = shrink(output.data["image/png"])
            kept.append(output)
        if cell.cell_type == "code":
            cell.outputs = kept


def shrink(picture: str) -> str:
    """A picture in base64 with 256 colours, if that is smaller."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        if image.mode == "P":
            return picture
        image.convert("RGB").quantize(256).save(file, "PNG", optimize=True)
    small = base64.b64encode(file.getvalue()).decode()
    return small if len(small) < len(picture) else picture


def to_page(book: Any, name: str) -> tuple[str, dict[str, bytes]]:
    """Markdown of an executed notebook, and its pictures by the names of their files."""
    parts, pictures, heading = [], {}, name
    for cell in book.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source.replace("../../docs/", "../"))
            headings = re.findall(r"(?m)^#+ (.+)$", cell.source)
            heading = headings[-1] if headings else heading
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            if output.output_type == "stream":
                parts.append(f"```\n{output.text.rstrip()}\n```")
            for kind in KINDS.keys() & output.get("data", {}).keys():
                file = f"{name}_{len(pictures) + 1}.{KINDS[kind]}"
                pictures[file] = base64.b64decode(output.data[kind])
                parts.append(f"![{heading}]({file})")
    return "\n\n".join(parts) + "\n", pictures


def code_of(book: Any) -> list[str]:
    """Texts of the code cells."""
    return [cell.source for cell in book.cells if cell.cell_type == "code"]


def take_outputs(book: Any, stored: Any) -> None:
    """Outputs of a stored notebook of the same code."""
    cells = [cell for cell in stored.cells if cell.cell_type == "code"]
    for cell, other in zip((c for c in book.cells if c.cell_type == "code"), cells, strict=True):
        cell.outputs, cell.execution_count = other.outputs, other.execution_count


def execute(book: Any, folder: Path) -> None:
    """Run a notebook in a folder, and clean its outputs."""
    folder.mkdir(parents=True, exist_ok=True)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(book, timeout=None, kernel_name="python3", resources=resources).execute()
    clean(book)


def write(name: str, folder: Path, again: bool) -> None:
    """Write a notebook and its page; it is run if its code has changed, or `again`."""
    book, path = create_notebook(HERE / f"{name}.py"), HERE / f"{name}.ipynb"
    stored = nbformat.read(path, as_version=4) if path.exists() else None
    if stored is not None and code_of(stored) == code_of(book) and not again:
        take_outputs(book, stored)
        clean(book)
    else:
        execute(book, folder)
    nbformat.write(book, path)
    text, pictures = to_page(book, name)
    PAGES.mkdir(exist_ok=True)
    for old in PAGES.glob(f"{name}_*"):
        old.unlink()
    for file, content in pictures.items():
        (PAGES / file).write_bytes(content)
    (PAGES / f"{name}.md").write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--folder", type=Path, default=Path("runs/notebooks"), help="to run in")
    parser.add_argument("--again", action="store_true", help="run also where no code has changed")
    given = parser.parse_args()
    known = sorted(p.stem for p in HERE.glob("*.py") if p.name != Path(__file__).name)
    for name in given.names or known:
        if name not in known:
            parser.error(f"{name!r} is no notebook; they are {', '.join(known)}")
        write(name, given.folder.resolve(), given.again)


if __name__ == "__main__":
    main()
