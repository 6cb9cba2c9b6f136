"""A linear classifier on frozen features, fitted to its optimum."""

import torch
from torch import Tensor
from torch.nn import functional

L2 = 1e-3
"""Weight of half the squared norm of the classifier, beside the mean cross-entropy."""


class LogisticRegression:
    """Multinomial logistic regression on standardised features, by L-BFGS.

    Minimises mean cross-entropy + l2 / 2 ||W||^2 (the bias is free) with full batches, in float64.
    Not the published linear evaluation, which trains with SGD and random crops; the two usually
    agree to about a point.

    Args:
        features: (n, dim).
        labels: (n,), int64 from 0.
        l2: see above.
    """

    def __init__(self, features: Tensor, labels: Tensor, l2: float = L2) -> None:
        self.mean = features.double().mean(dim=0)
        deviation = features.double().std(dim=0, correction=0)
        self.scale = torch.where(deviation > 0, deviation, 1)
        x = self._standardise(features)
        classes = int(labels.max()) + 1
        self.weight = torch.zeros(classes, x.shape[1], dtype=x.dtype, device=x.device)
        self.bias = torch.zeros(classes, dtype=x.dtype, device=x.device)
        parameters = [self.weight.requires_grad_(), self.bias.requires_grad_()]
        optimizer = torch.optim.LBFGS(
            parameters, max_iter=500, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = functional.cross_entropy(x @ self.weight.mT + self.bias, labels)
            loss = loss + 0.5 * l2 * self.weight.square().sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)  # pyright: ignore[reportArgumentType]
        self.weight, self.bias = self.weight.detach(), self.bias.detach()

    def _standardise(self, features: Tensor) -> Tensor:
        return (features.double() - self.mean) / self.scale

    def predict(self, features: Tensor) -> Tensor:
        """Class of each row of (m, dim): int64 (m,)."""
        return (self._standardise(features) @ self.weight.mT + self.bias).argmax(dim=1)
