"""Training images set apart to choose by, so that nothing is chosen on test images."""

import numpy as np
import torch

from sslortho.data.image_sets import ImageSet


def hold_out(data: ImageSet, share: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """(images to train on, images held out), each in the order of the data.

    Args:
        data: labelled images.
        share: of each class that is held out, rounded to whole images, above 0 and below 1.
        seed: of the choice.

    Raises ValueError if that leaves nothing on one side.
    """
    generator = np.random.default_rng((seed, 1))  # not the numbers that choose a subset
    order = torch.from_numpy(generator.permutation(len(data)))
    labels = data.labels[order]
    parts = []
    for label in labels.unique():
        group = order[labels == label]
        parts.append(group[: round(share * len(group))])
    chosen = torch.cat(parts).sort().values
    if len(chosen) in (0, len(data)):
        raise ValueError(
            f"validation={share} holds out {len(chosen)} of {len(data)} images; choose a share that "
            "leaves some on both sides"
        )
    rest = torch.ones(len(data), dtype=torch.bool)
    rest[chosen] = False
    return data.select(rest.nonzero().squeeze(1)), data.select(chosen)
