"""What the training loop asks of a method."""

from torch import Tensor, nn


class Task(nn.Module):
    """A model and its loss.

    `task(views, labels)` takes the tensors of a `Batch` and returns {"loss": scalar, name: scalar,
    ...}; what is not the loss is only logged.
    """

    backbone: nn.Module
    """Evaluated and exported: images (batch, 3, height, width) to features (batch, dim)."""

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        raise TypeError(f"{type(self).__name__} does not say what a batch means")

    def after_step(self) -> None:
        """What follows an optimizer step; a moving average, say. Nothing by default."""
