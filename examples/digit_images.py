"""Data of the examples, in place of yours: scikit-learn's handwritten digits. Needs scikit-learn."""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import Dataset


class DigitImages(Dataset):
    """1,797 digits as RGB images of 32 x 32 pixels; every fifth is a test image.

    Args:
        train: True for the 1,437 training images, False for the 360 test images.
        transform: applied to each PIL image.

    Items are (transformed image, label).
    """

    def __init__(self, train: bool = True, transform: Callable[[Image.Image], Any] | None = None):
        data: Any = load_digits()
        test = np.arange(len(data.target)) % 5 == 0
        chosen = ~test if train else test
        self.pixels = (data.images[chosen] * (255 / 16)).astype(np.uint8)
        self.labels = data.target[chosen]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = Image.fromarray(self.pixels[index]).convert("RGB").resize((32, 32))
        return (self.transform(image) if self.transform else image), int(self.labels[index])
