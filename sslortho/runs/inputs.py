"""Inputs of a run that its options only point to: images, and the weights of a backbone.

A path says where images lie, not which they are. So a checkpoint and summary.json hold the identity of
the inputs, and images.npz in the run folder their names, to say what has changed.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from sslortho.atomic import atomic_file
from sslortho.data.identity import ImageTable, describe_difference

if TYPE_CHECKING:
    from sslortho.data import ImageSet

Role = Literal["training", "held-out", "test", "embedded"]
"""Use of an image set in a run, or in a file of features."""

BACKBONE = "backbone"
"""Name of the backbone's entry among the images' ones."""

HANDED = ("projector", "method", "views")
"""Names of entries of other objects that a Python caller has handed over."""


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hash of named tensors: names, types, shapes and values."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(plain.numpy().data)
    return digest.hexdigest()


def collect_tables(
    train: "ImageSet", test: "ImageSet | None", held_out: "ImageSet | None" = None
) -> dict[Role, ImageTable]:
    """Tables of the image sets of a run, those that it has."""
    sets: dict[Role, ImageSet | None] = {"training": train, "test": test, "held-out": held_out}
    return {role: images.table for role, images in sets.items() if images is not None}


@dataclass(frozen=True, eq=False)
class Inputs:
    """Images and weights that a run reads."""

    images: Mapping[Role, ImageTable]
    backbone: str | None = None
    """Hash of the weights that the run begins from; None for a fresh network."""
    classifies: bool = False
    """Whether the network has an output for each class, so that classes must stay."""
    handed: Mapping[str, str] = field(default_factory=dict)
    """Identity of other objects that a Python caller has handed over, by names of HANDED."""
    hint: str = ""
    """Remedy in words, after a message about other weights of the backbone."""

    def state(self) -> dict[str, dict[str, Any]]:
        """Identity of each input, for checkpoints and summary.json."""
        found: dict[str, dict[str, Any]] = {r: table.state() for r, table in self.images.items()}
        if self.backbone is not None:
            found[BACKBONE] = {"digest": self.backbone}
        return found | {name: {"digest": digest} for name, digest in self.handed.items()}

    def find_changes(self, stored: Mapping[str, Any], path: Path) -> list[str]:
        """Differences from the inputs of a checkpoint or of a finished run, in words.

        Args:
            stored: `state` of those inputs.
            path: file in which `write_tables` wrote or kept them; without it the words are fewer.
        """
        now = self.state()
        names = [name for name in stored if stored[name].get("digest") != _digest(now.get(name))]
        tables = read_tables(path) if set(names) - {BACKBONE, *HANDED} else {}
        changes = [
            self._describe(name, stored[name], tables.get(stored[name]["digest"])) for name in names
        ]
        return changes + [f"there {_describe_new(name)} now" for name in now if name not in stored]

    def _describe(self, name: str, stored: Mapping[str, Any], before: ImageTable | None) -> str:
        if name == BACKBONE:
            return f"the weights of the backbone have changed{self.hint}"
        if name in HANDED:
            return f"the {name} that {'were' if name == 'views' else 'was'} handed over changed"
        now = self.images.get(name)  # pyright: ignore[reportArgumentType]
        if now is None:
            return f"there are no {name} images any more"
        if before is None:
            then = f"{stored['count']} of {stored['classes']} classes then"
            return f"the {name} images have changed ({then}, {len(now)} of {len(now.classes)} now)"
        return f"the {name} images have changed ({describe_difference(before, now)})"

    def fits_network(self, stored: Mapping[str, Any]) -> bool:
        """Whether a network that was trained on the stored inputs can go on with these."""
        parts = {BACKBONE: self.backbone, **{name: self.handed.get(name) for name in HANDED[:2]}}
        if any(_digest(stored.get(name)) != digest for name, digest in parts.items()):
            return False
        names = "class_names"
        return not self.classifies or stored["training"][names] == self.state()["training"][names]


def _describe_new(name: str) -> str:
    if name == BACKBONE:
        return "is a backbone from a file"
    return f"are {name} handed over" if name in HANDED else f"are {name} images"


def _digest(entry: Mapping[str, Any] | None) -> str | None:
    return None if entry is None else entry.get("digest")


def write_tables(path: Path, inputs: Inputs, kept: Collection[str] = ()) -> None:
    """Write the names, sizes and labels of all images as a NumPy archive.

    Args:
        path: of the file.
        inputs: of the run.
        kept: digests of tables in the file that stay: those of a checkpoint, until there is another.
    """
    tables = {digest: table for digest, table in read_tables(path).items() if digest in kept}
    tables |= {table.digest: table for table in inputs.images.values()}
    arrays: dict[str, np.ndarray] = {}
    for digest, table in tables.items():
        text = json.dumps({"classes": table.classes, "content": table.content})
        arrays[f"{digest}/about"] = np.array(text)
        arrays[f"{digest}/labels"] = table.labels
        if table.sizes is not None:
            arrays[f"{digest}/sizes"] = table.sizes
        if table.ends is not None:
            arrays[f"{digest}/ends"] = table.ends
        if table.names is not None:  # one array of bytes: an array of text pads each name
            names = "\0".join(table.names).encode("utf-8", "surrogateescape")
            arrays[f"{digest}/names"] = np.frombuffer(names, np.uint8)
    with atomic_file(path) as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]


def read_tables(path: Path) -> dict[str, ImageTable]:
    """Tables by digest, as `write_tables` wrote them; none where the file is missing or damaged."""
    try:
        with np.load(path) as file:
            arrays = dict(file)
        digests = [name.removesuffix("/about") for name in arrays if name.endswith("/about")]
        return {digest: _read_table(arrays, digest) for digest in digests}
    except Exception:  # it serves messages alone, and a damaged archive raises a dozen kinds
        return {}


def _read_table(arrays: Mapping[str, np.ndarray], digest: str) -> ImageTable:
    about = json.loads(str(arrays[f"{digest}/about"]))
    names = None
    if f"{digest}/names" in arrays:
        text = arrays[f"{digest}/names"].tobytes().decode("utf-8", "surrogateescape")
        names = text.split("\0")
    return ImageTable(
        labels=arrays[f"{digest}/labels"],
        classes=tuple(about["classes"]),
        names=names,
        sizes=arrays.get(f"{digest}/sizes"),
        ends=arrays.get(f"{digest}/ends"),
        content=about["content"],
    )
