"""Choice among several networks of one kind in a file: the one that its project evaluates."""

import re

import torch
from torch import Tensor

from sslortho.models.weights.file import WeightsFile
from sslortho.models.weights.matching import Fit


def _words(prefix: str) -> set[str]:
    return set(re.split(r"[._]", prefix.lower()))


def _same(one: Fit, other: Fit, state: dict[str, Tensor]) -> bool:
    keys = one.names.keys() & other.names.keys()
    return all(torch.equal(state[one.names[key]], state[other.names[key]]) for key in keys)


def _find_different(fits: list[Fit], state: dict[str, Tensor]) -> list[Fit]:
    different: list[Fit] = []
    for fit in sorted(fits, key=lambda fit: fit.of_a_copy):
        if not any(_same(fit, other, state) for other in different):  # else the same weights
            different.append(fit)
    return different


def _find_teacher(fits: list[Fit]) -> Fit | None:
    """The teacher among students.

    It is what facebookresearch/dino (eval_knn.py, --checkpoint_key), bytedance/ibot
    (evaluation/eval_cls.py) and DINOv2 evaluate. lightly's benchmark of DINO calls it `backbone`
    beside `student_backbone`.
    """
    students = [fit for fit in fits if "student" in _words(fit.prefix)]
    others = [fit for fit in fits if "student" not in _words(fit.prefix)]
    return others[0] if students and len(others) == 1 else None


def _find_target_encoder(fits: list[Fit]) -> Fit | None:
    """The target encoder beside an encoder, which facebookresearch/msn (logistic_eval.py) and V-JEPA
    (facebookresearch/jepa, configs/evals) evaluate. BYOL's networks are `online_...` and `target_...`."""
    places = {fit.prefix.split(".")[0]: fit for fit in fits}
    return places["target_encoder"] if set(places) == {"encoder", "target_encoder"} else None


def _find_average(fits: list[Fit]) -> Fit | None:
    """Averaged weights of Lightning's WeightAveraging, which puts them in the place of the weights."""
    places = {fit.prefix.split(".")[0]: fit for fit in fits}
    return places["state_dict"] if set(places) == {"state_dict", "current_model_state"} else None


EVALUATED = (
    (_find_teacher, "the teacher, as DINO evaluates"),
    (_find_target_encoder, "the target encoder, as MSN and V-JEPA evaluate"),
    (_find_average, "the average, as Lightning evaluates"),
)


def _list_prefixes(fits: list[Fit]) -> str:
    return " or ".join(f"weights_prefix={fit.prefix!r}" for fit in fits)


def choose_fit(
    weights: WeightsFile, state: dict[str, Tensor], fits: list[Fit]
) -> tuple[Fit, list[str]]:
    """Choose one of several complete fits; the second result has a note that says which, and the others.

    Args:
        weights: file of the fits.
        state: its tensors, with weights put together.
        fits: at least one.

    Raises:
        ValueError: several are of equal right.
    """
    different = _find_different(fits, state)
    ours = [fit for fit in different if weights.inside == "task" and fit.prefix == "backbone."]
    if ours:  # `Task.backbone` is what a run exports
        return ours[0], []
    if len(different) == 1:
        return different[0], []
    for find, reason in EVALUATED:
        if (taken := find(different)) is not None:
            others = _list_prefixes([fit for fit in different if fit is not taken])
            return taken, [f"took {taken.prefix!r}, {reason}: {others} takes the other"]
    originals = [fit for fit in different if not (fit.of_a_copy or "student" in _words(fit.prefix))]
    if len(originals) != 1:
        prefixes = ", ".join(repr(fit.prefix) for fit in different)
        raise ValueError(
            f"backbone_from={str(weights.path)!r} holds several such networks, under {prefixes}; "
            "say which by weights_prefix"
        )
    taken, copies = different[0], different[1:]
    plural = ("average", "that") if len(copies) == 1 else ("averages", "one of them")
    return taken, [
        f"took {taken.prefix!r}, not its moving {plural[0]}: {_list_prefixes(copies)} takes {plural[1]}"
    ]
