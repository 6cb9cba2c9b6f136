"""A run that resumes on images or weights other than those that it began with."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from sslortho.options import GIVEN, Options, facts
from sslortho.recipes.options import TrainingOptions
from sslortho.runs.folder import RunFolder
from sslortho.runs.inputs import BACKBONE, Inputs
from sslortho.train.progress import Progress
from sslortho.train.state import steps_per_epoch


def accept_changes(
    options: TrainingOptions,
    inputs: Inputs,
    folder: RunFolder,
    state: Mapping[str, Any],
    steps: int,
) -> list[dict[str, Any]]:
    """Compare the inputs of a run with those of its checkpoint.

    Args:
        options, inputs: of the run that resumes.
        folder: of the run.
        state: its checkpoint.
        steps: of an epoch with these images.

    Returns:
        Every change that `accept_changed_data` has accepted, now and before: "step", "change" and
        "effect".

    Raises ValueError, saying what has changed, if it was not accepted or cannot be.
    """
    stored = state.get("inputs", {})
    if stored:
        changes = "; ".join(inputs.find_changes(stored, folder.images))
    else:  # of version 0.1, which compared the spelling of paths
        _check_paths(options, state.get("config", {}), folder)
        changes = _compare_lengths(state, steps)
    earlier = list(state.get("accepted_changes", []))
    if not changes:
        return earlier
    trained = stored.get("training", {}).get("digest")
    if trained == inputs.images["training"].digest:
        effect = "training goes on as before, and evaluations from here on are of other images"
    else:
        effect = _describe_effect(state, steps, options.epochs)
    beginning = f"the run in {folder.path} cannot resume: {changes}"
    if stored and not inputs.fits_network(stored):
        raise ValueError(
            f"{beginning}. What was trained there does not fit; give what the run began with, or another "
            "--out"
        )
    if not options.accept_changed_data:
        raise ValueError(
            f"{beginning}. Restore the images, give another --out, or go on with them by "
            f"--accept_changed_data true: {effect}"
        )
    step = state["progress"]["step"]
    return [*earlier, {"step": step, "change": changes, "effect": effect}]


def _compare_lengths(state: Mapping[str, Any], steps: int) -> str:
    """Difference in the steps of an epoch, in words; empty if there is none, or it is not known."""
    before = steps_per_epoch(state)
    if before in (None, steps):
        return ""
    return f"the training images have changed (an epoch had {before} steps, it has {steps} now)"


def _describe_effect(state: Mapping[str, Any], steps: int, epochs: int) -> str:
    """Effect of other images on schedule and order, in words.

    Args:
        state: checkpoint to go on from.
        steps: of an epoch now.
        epochs: of the whole training.
    """
    there, here = Progress(**state["progress"]), Progress(**state["progress"])
    before = steps_per_epoch(state) or steps
    order = "the images come in a new order from here on"
    if before == steps:
        return f"{order}; the schedule stays, since an epoch has {steps} steps as before"
    here.rescale(before, steps)
    return (
        f"{order}; an epoch has {steps} steps instead of {before}, and training goes on in epoch "
        f"{here.epoch + 1} of {epochs} after step {here.step_in_epoch} of {steps} (it was "
        f"{there.step_in_epoch} of {before}), so that the learning rate goes on from where it was and "
        "ends with the last epoch"
    )


def find_finished(
    options: Options,
    folder: RunFolder,
    read_inputs: Callable[[], Inputs],
    hash_backbone: Callable[[], str | None] = lambda: None,
) -> dict[str, Any] | None:
    """Content of summary.json, after a line that says that the run is finished; None if it is not.

    A finished run outlives its data, so these are read only where a path is another one, or where
    objects are handed over.

    Args:
        options: of whoever asks for the run.
        folder: of the run.
        read_inputs: reads the inputs that the options name.
        hash_backbone: hash of the weights that the options name, which are compared also where the path is the
            same: a training may have gone on there. None where they are gone, or not to be compared.

    Raises ValueError for a broken file, and if other images or weights are asked for.
    """
    summary = folder.load_summary()
    if summary is not None:
        _check_same(options, folder, summary, read_inputs, hash_backbone)
    return folder.finished_summary()


def _check_same(
    options: Options,
    folder: RunFolder,
    summary: Mapping[str, Any],
    read_inputs: Callable[[], Inputs],
    hash_backbone: Callable[[], str | None],
) -> None:
    """Raise ValueError if a finished run is of other images or weights."""
    stored = summary.get("config", {})
    known = facts(type(options))
    paths = [name for name, fact in known.items() if fact.by_content and name in stored]
    different = [n for n in paths if not _same_path(stored[n], getattr(options, n))]
    if not different and GIVEN not in options.values().values():
        before = summary.get("inputs", {}).get(BACKBONE, {}).get("digest")
        now = None if before is None else hash_backbone()
        changes = "the weights of the backbone have changed" if now not in (None, before) else ""
    elif "inputs" in summary:
        changes = "; ".join(read_inputs().find_changes(summary["inputs"], folder.images))
    else:  # of version 0.1
        name = different[0] if different else "data"
        changes = f"{name} is {stored[name]!r} there and {getattr(options, name)!r} here"
    if changes:
        raise ValueError(
            f"the finished run in {folder.path} is of other data: {changes}; give another --out"
        )


def _check_paths(options: Options, stored: Mapping[str, Any], folder: RunFolder) -> None:
    """Raise ValueError for other paths than those of a checkpoint that does not know its images."""
    for name, fact in facts(type(options)).items():
        then, now = stored.get(name), getattr(options, name)
        if not fact.by_content or _same_path(then, now):
            continue
        raise ValueError(
            f"the run in {folder.path} is of a version that did not record its images, so only its "
            f"paths can tell: {name} {then!r} there, {now!r} here; give the same, or another --out"
        )


def _same_path(one: Any, other: Any) -> bool:
    """Whether two values of an option are the same file or folder, however they are spelt."""
    if isinstance(one, str) and isinstance(other, str):
        return os.path.realpath(os.path.expanduser(one)) == os.path.realpath(other)  # noqa: PTH111
    return one == other
