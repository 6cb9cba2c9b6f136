"""Configurations by name: the YAML files of `configs/`, in a checkout and in an installed package."""

from pathlib import Path

from sslortho.options import nearest

_PACKAGE = Path(__file__).resolve().parent.parent


def configs_folder() -> Path:
    """Folder of the YAML files: beside the package in a checkout, inside it once installed."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def find_config(given: str) -> str:
    """Path of a YAML file from what follows `--config`: a file, or a name such as figure7_small.

    Text that holds YAML itself ("{lr: 1}", "lr: 1") is returned as it is. Raises ValueError for a name that is
    neither a file nor known.
    """
    if (
        given.startswith("--")
        or "{" in given
        or ": " in given
        or Path(given).expanduser().is_file()
    ):
        return given  # the first is a mistake that the parser tells
    known = {path.stem: path for path in sorted(configs_folder().glob("*.yaml"))}
    if (
        Path(given).suffix in ("", ".yaml")
        and Path(given).stem in known
        and len(Path(given).parts) == 1
    ):
        return str(known[Path(given).stem])
    hint = nearest(Path(given).stem, known)
    names = "" if len(Path(given).parts) > 1 or hint else f"; the names are {', '.join(known)}"
    raise ValueError(
        f"config={given!r} is neither a file nor the name of a configuration{hint}{names}"
    )
