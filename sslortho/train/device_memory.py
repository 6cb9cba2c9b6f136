"""A GPU whose memory is too small, in one line that says what to lower."""

from collections.abc import Mapping
from typing import Any

import torch

HALVED_BY_BF16 = ("no", None)
"""Values of mixed_precision under which bf16 would take about half of the memory of activations."""


class DeviceMemoryError(RuntimeError):
    """The memory of a GPU does not hold what it was given."""


def describe_shortage(values: Mapping[str, Any], trains: bool) -> str:
    """Remedies in words.

    Args:
        values: options of the run by name; those that it lacks are not spoken of.
        trains: whether it was a step of training. An evaluation has batches of its own, which neither
            batch_size nor accumulation_steps change.
    """
    remedies, parts = [], values.get("accumulation_steps")
    after_training = not trains and "epochs" in values
    if trains and "batch_size" in values:
        batch = values["batch_size"]
        remedies.append(f"lower batch_size ({batch})" if batch else "lower batch_size")
    graphs = values.get("cuda_graphs")
    if trains and parts and not graphs:  # they do not go together
        remedies.append(
            f"raise accumulation_steps ({parts}), which cuts the samples of a step into parts"
        )
    narrow = values.get("mixed_precision", "bf16") not in HALVED_BY_BF16
    if not narrow and not after_training:  # a training's final figures are of float32
        remedies.append("give mixed_precision bf16, which takes about half")
    if (size := values.get("crop_size")) and size > 64:
        another = ", with another out" if after_training else ""
        remedies.append(f"lower crop_size ({size}){another}")
    if trains and graphs:
        remedies.append("leave cuda_graphs out, which keeps memory of its own")
    if after_training or not remedies:
        remedies.append("free what other processes hold, which nvidia-smi shows")
    total = _total_gib()
    memory = f"the {total:.0f} GiB of the GPU's memory" if total else "the GPU's memory"
    place = " in an evaluation" if after_training else ""
    kept = "; checkpoints and the weights of a finished training stay" if after_training else ""
    return f"{memory} did not suffice{place}: {'; or '.join(remedies)}{kept}"


def _total_gib() -> float | None:
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 2**30
