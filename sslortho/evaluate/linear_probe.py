"""Linear classifier on frozen features, fitted to its optimum."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from sslortho.evaluate.features import check_features, max_over_ranks, sum_over_ranks

L2 = 1e-3
"""Default weight of half the squared norm of the classifier, relative to the mean cross-entropy."""

BLOCKS = {"cpu": 2**19, "cuda": 2**24}
"""Float64 numbers of a block: 4 MiB fit a CPU's cache, 128 MiB keep a GPU busy."""

CONSTANT = 1e-7
"""Deviation relative to the mean below which a feature counts as constant; the rounding of float32."""


def block_rows(features: Tensor, width: int) -> int:
    """Rows of a block whose rows have `width` numbers."""
    return max(1, BLOCKS.get(features.device.type, BLOCKS["cpu"]) // max(1, width))


class _Share:
    """Iterable over this rank's features and labels, or some rows of them, in blocks of float64."""

    def __init__(self, features: Tensor, labels: Tensor, width: int, rows: Tensor | None) -> None:
        self.features, self.labels, self.rows = features, labels, rows
        self.step = block_rows(features, width)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        count = len(self.features) if self.rows is None else len(self.rows)
        for start in range(0, count, self.step):
            part = slice(start, start + self.step)
            part = part if self.rows is None else self.rows[part]
            yield self.features[part].double(), self.labels[part]


def _check(features: Tensor, labels: Tensor, classes: int | None, share: _Share) -> Tensor:
    """Number of images of each class over all ranks, float64 (classes,).

    Raises ValueError for features or labels that cannot be fitted to.
    """
    bad = torch.zeros(1, dtype=torch.int64, device=features.device)
    for block, _ in share:
        bad += (~torch.isfinite(block)).any(dim=1).sum()
    if int(sum_over_ranks(bad)):
        raise ValueError(
            f"features of {int(bad)} images are not finite; nothing can be fitted to them"
        )
    extremes = torch.full((2,), -1, device=labels.device)
    if len(labels):
        extremes = torch.stack([labels.max(), -labels.min() - 1])
    highest, negative = max_over_ranks(extremes).tolist()
    if negative >= 0:
        raise ValueError(f"labels go down to {-negative - 1}, expected 0 and up: all need a class")
    if highest < 0:
        raise ValueError("there are no images to fit to")
    found = highest + 1 if classes is None else classes
    if highest >= found:
        raise ValueError(f"classes={classes}, but labels go up to {highest}")
    counts = torch.zeros(found, dtype=torch.float64, device=labels.device)
    for _, block in share:
        counts += torch.bincount(block, minlength=found)
    if int((sum_over_ranks(counts) > 0).sum()) < 2:
        raise ValueError(f"the labels are all {highest}: a classifier needs two classes or more")
    return counts


class LogisticRegression:
    """Multinomial logistic regression on standardised features, by L-BFGS.

    Minimises mean cross-entropy + l2 / 2 ||W||^2 (the bias is free) with full batches, in float64.
    It is not the published linear evaluation, which trains with SGD and random crops; the two usually
    agree to about a point.

    Every rank must call with its own rows, and all get the same classifier. The features are not
    copied: more memory is needed only for a block of BLOCKS numbers and for 45 times the classifier.

    Args:
        features: (n, dim), this rank's; (0, 0) if it has none.
        labels: int64 (n,), from 0.
        l2: weight decay, see above; with 0 there may be no optimum.
        classes: number of classes; by default the highest label plus one.
        rows: int64 indices of the rows to fit to; by default all.
        start: classifier to start from.

    Raises:
        ValueError: other shapes or types, features that are not finite, labels below 0 or beyond
            `classes`, a single class, l2 below 0.
    """

    MAX_ITERATIONS = 500
    TOLERANCE = 1e-6
    """Largest entry of the gradient at which the fit ends; l2 / 100 if that is less, since the distance
    to the optimum is at most the gradient's norm / l2."""

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        l2: float = L2,
        *,
        classes: int | None = None,
        rows: Tensor | None = None,
        start: "LogisticRegression | None" = None,
    ) -> None:
        if not 0 <= l2 < torch.inf:
            raise ValueError(f"l2={l2} must be 0 or more")
        check_features(features, labels)
        dim = int(max_over_ranks(torch.tensor(features.shape[1], device=features.device)))
        if not len(features):
            features = features.new_empty(0, dim)
        counts = _check(features, labels, classes, _Share(features, labels, dim, rows))
        self.l2 = l2
        self._share = _Share(features, labels, max(dim, len(counts)), rows)
        self._total = counts.sum()
        self.mean, self.scale = self._moments(dim, features.device)
        self._parameters = self.mean.new_zeros(len(counts), dim + 1)
        if start is not None:
            self._take_over(start)
        self._fit()
        del self._share, self._total

    @property
    def weight(self) -> Tensor:
        """Float64 (classes, dim), for standardised features."""
        return self._parameters[:, :-1]

    @property
    def bias(self) -> Tensor:
        """Float64 (classes,)."""
        return self._parameters[:, -1]

    def _moments(self, dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(dim, dtype=torch.float64, device=device)
        mean = zeros.clone()
        for x, _ in self._share:
            mean += x.sum(dim=0)
        mean = sum_over_ranks(mean) / self._total
        square = zeros
        for x, _ in self._share:
            square += (x - mean).square().sum(dim=0)
        deviation = (sum_over_ranks(square) / self._total).sqrt()
        return mean, torch.where(deviation > CONSTANT * mean.abs(), deviation, 1.0)

    def _take_over(self, start: "LogisticRegression") -> None:
        weight, bias = start._unstandardised()
        self._parameters[:, :-1] = weight * self.scale
        self._parameters[:, -1] = bias + weight @ self.mean

    def _unstandardised(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the same classifier for the original features."""
        weight = self.weight / self.scale
        return weight, self.bias - weight @ self.mean

    def _objective(self) -> tuple[Tensor, Tensor]:
        """Loss () and its gradient (classes, dim + 1)."""
        weight, bias = self._unstandardised()
        sums = weight.new_zeros(self._parameters.numel() + 1)
        loss, gradient = sums[-1], sums[:-1].view_as(self._parameters)
        for x, labels in self._share:
            log_p = functional.log_softmax(torch.addmm(bias, x, weight.mT), dim=1)
            truth = labels.unsqueeze(1)
            loss -= log_p.gather(1, truth).sum()
            error = log_p.exp_().scatter_add_(1, truth, -torch.ones_like(log_p[:, :1]))
            gradient[:, :-1].addmm_(error.mT, x)
            gradient[:, -1] += error.sum(dim=0)
        sum_over_ranks(sums).div_(self._total)
        # so far with respect to the original features; the chain rule leads to the standardised ones
        gradient[:, :-1] -= torch.outer(gradient[:, -1], self.mean)
        gradient[:, :-1] /= self.scale
        gradient[:, :-1] += self.l2 * self.weight
        return loss + 0.5 * self.l2 * self.weight.square().sum(), gradient

    @torch.no_grad()
    def _fit(self) -> None:
        parameters = self._parameters
        tolerance = min(self.TOLERANCE, self.l2 / 100 or self.TOLERANCE)
        optimizer = torch.optim.LBFGS(
            [parameters],
            max_iter=self.MAX_ITERATIONS,
            max_eval=2 * self.MAX_ITERATIONS,
            tolerance_grad=tolerance,
            tolerance_change=1e-16,  # with 1e-12 the gradient of a weak l2 is still above its tolerance
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            loss, parameters.grad = self._objective()
            return loss

        optimizer.step(closure)  # pyright: ignore[reportArgumentType]
        parameters.grad = None
        self.iterations: int = optimizer.state[parameters]["n_iter"]
        _, gradient = self._objective()
        self.converged: bool = float(gradient.abs().max()) <= tolerance
        """Whether the gradient is within the tolerance; see TOLERANCE."""

    def logits(self, features: Tensor) -> Tensor:
        """Logits float64 (m, classes) of features (m, dim)."""
        weight, bias = self._unstandardised()
        blocks = features.split(block_rows(features, max(weight.shape)))
        return torch.cat([torch.addmm(bias, block.double(), weight.mT) for block in blocks])

    def predict(self, features: Tensor) -> Tensor:
        """Classes int64 (m,) of features (m, dim); among equal logits the lower class.

        Raises ValueError for features that are not finite: they have no class.
        """
        logits = self.logits(features)
        bad = int((~torch.isfinite(logits)).any(dim=1).sum())
        if bad:
            raise ValueError(f"features of {bad} images are not finite; they have no class")
        return logits.argmax(dim=1)

    def as_linear(self) -> nn.Linear:
        """The same classifier as a float32 layer for the original features."""
        weight, bias = self._unstandardised()
        classes, dim = weight.shape
        linear = nn.Linear(dim, classes, device=weight.device)
        linear.load_state_dict({"weight": weight.float(), "bias": bias.float()})
        return linear
