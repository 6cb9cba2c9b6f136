"""Classification: a linear classifier on a backbone that is trained with it or frozen."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import Self

from sslortho.methods.task import Task


class Classification(Task):
    """Cross-entropy between the labels and a classifier's logits of one view.

    Args:
        backbone: network from images (batch, 3, height, width) to features (batch, dim).
        classifier: layer from features to logits (batch, classes).
        freeze_backbone: train the classifier alone, as in linear evaluation. The backbone keeps its
            weights and its batch norm statistics: it stays in evaluation mode whatever `train` says.
        label_smoothing: share of the target that is spread evenly over all classes (arXiv 1512.00567,
            section 7).
    """

    def __init__(
        self,
        backbone: nn.Module,
        classifier: nn.Linear,
        freeze_backbone: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier
        self.label_smoothing = label_smoothing
        self.freeze_backbone = freeze_backbone
        if freeze_backbone:
            backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.freeze_backbone:
            self.backbone.eval()
        return self

    def classify(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, 3, height, width)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_backbone):
            features = self.backbone(images)
        # in float32, since products in bfloat16 round logits to ties
        with torch.autocast(features.device.type, enabled=False):
            weight, bias = self.classifier.weight, self.classifier.bias
            dtype = torch.promote_types(weight.dtype, torch.float32)
            if weight.dtype == dtype:
                return self.classifier(features.to(dtype))
            bias = None if bias is None else bias.to(dtype)
            return functional.linear(features.to(dtype), weight.to(dtype), bias)

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        logits = self.classify(views[0])
        loss = functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        guesses = logits.detach().argmax(dim=1)
        # argmax names a class for nan too, which is never right
        hits = (guesses == labels) & ~logits.detach().isnan().any(dim=1)
        return {"loss": loss, "train_top1": 100 * hits.float().mean()}
