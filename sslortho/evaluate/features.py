"""Features of a whole data set, and the exchange of tensors between ranks."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sslortho.data import Batch, EvaluationLoader
from sslortho.models.network_facts import evaluation_mode

Context = Callable[[], AbstractContextManager[Any]]


def world_size() -> int:
    """Number of ranks that evaluate together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum over ranks, in place; the same bits on every rank."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def max_over_ranks(values: Tensor) -> Tensor:
    """Elementwise maximum over ranks, in place."""
    if world_size() > 1:
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return values


def rows_before(count: int, device: torch.device) -> int:
    """Number of rows on the ranks before this one. Every rank calls with the `count` of its rows."""
    if world_size() == 1:
        return 0
    counts = torch.zeros(world_size(), dtype=torch.int64, device=device)
    counts[dist.get_rank()] = count
    return int(sum_over_ranks(counts)[: dist.get_rank()].sum())


def exchange_device() -> torch.device:
    """Device of the tensors that a rank without data brings to an exchange."""
    if world_size() > 1 and torch.cuda.is_available() and dist.get_backend() != "gloo":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def gather_rows(local: Tensor) -> Tensor:
    """Concatenate the tensors (n, ...) of all ranks in rank order; n may differ between ranks."""
    if world_size() == 1:
        return local
    shape = torch.tensor(local.shape, device=local.device)
    shapes = [torch.empty_like(shape) for _ in range(world_size())]
    dist.all_gather(shapes, shape)
    counts = [int(s[0]) for s in shapes]
    # a rank without rows does not know how long they are
    row = tuple(torch.stack(shapes)[:, 1:].amax(dim=0).tolist()) if local.ndim > 1 else ()
    padded = local.new_zeros(max(counts), *row)
    if len(local):
        padded[: len(local)] = local
    parts = [torch.empty_like(padded) for _ in range(world_size())]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def check_features(features: Tensor, labels: Tensor | None = None) -> None:
    """Raise ValueError unless features are real (n, dim), and labels, where given, int64 (n,)."""
    if features.ndim != 2 or features.is_complex():
        raise ValueError(
            f"features must be real, (n, dim), got {features.dtype} of shape {tuple(features.shape)}"
        )
    if labels is None:
        return
    if labels.shape != features.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            f"labels must be int64 ({len(features)},), one for each row of the features, got "
            f"{labels.dtype} of shape {tuple(labels.shape)}"
        )


def _checked(features: Any, count: int) -> Tensor:
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != count:
        found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(
            f"the backbone gives {found} for {count} images, expected features ({count}, dim): end it "
            "with nn.AdaptiveAvgPool2d(1) and nn.Flatten(), or return only that tensor"
        )
    features = features.float()
    bad = int((~torch.isfinite(features)).any(dim=1).sum())
    if bad:
        raise ValueError(
            f"the backbone's features of {bad} of {count} images are not finite: its weights have "
            "diverged (train at a lower rate), or its numbers overflow (evaluate in float32)"
        )
    return features


def feature_batches(
    backbone: nn.Module, loader: Iterable[Batch], autocast: Context = nullcontext
) -> Iterator[tuple[Tensor, Tensor]]:
    """Features float32 (batch, dim) and labels int64 (batch,) of this rank's images, batch by batch.

    Where there are several views of an image, of one size, its features are their mean.

    Meanwhile the backbone is in evaluation mode, so its statistics stay as they are. However the
    iteration ends, each part is then back in the mode that it was in.

    Args:
        backbone: images (batch, 3, height, width) to (batch, dim).
        loader: evaluation views, or several views of each image.
        autocast: makes the context that the backbone runs in, such as `accelerator.autocast`.

    Raises:
        ValueError: features of another shape, or not finite.
    """
    with evaluation_mode(backbone):
        for batch in loader:
            number = len(batch.views)
            images = batch.views[0] if number == 1 else torch.cat(batch.views)
            with torch.no_grad(), autocast():
                features = backbone(images)
            features = _checked(features, len(images))
            if number > 1:
                features = features.unflatten(0, (number, -1)).mean(dim=0)
            yield features, batch.labels


def local_features(
    backbone: nn.Module,
    loader: EvaluationLoader,
    autocast: Context = nullcontext,
    each: Callable[[Tensor], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Features float32 (n, dim) and labels int64 (n,) of this rank's share, in order.

    The features are written into one tensor; there is never a second copy. A share without images
    gives features (0, 0).

    Args:
        backbone, loader, autocast: see `feature_batches`, also for what raises.
        each: called with every batch of features.
    """
    features, labels, count = None, [], 0
    for batch, batch_labels in feature_batches(backbone, loader, autocast):
        if each is not None:
            each(batch)
        if features is None:
            features = batch.new_empty(len(loader) * len(batch), batch.shape[1])
        features[count : count + len(batch)] = batch
        labels.append(batch_labels)
        count += len(batch)
    if features is None:
        device = next((p.device for p in backbone.parameters()), exchange_device())
        return torch.empty(0, 0, device=device), torch.empty(0, dtype=torch.int64, device=device)
    return features[:count], torch.cat(labels)


def extract_features(
    backbone: nn.Module, loader: EvaluationLoader, autocast: Context = nullcontext
) -> tuple[Tensor, Tensor]:
    """Features float32 (n, dim) and labels int64 (n,) of all ranks' shares, in order, on every rank.

    See `feature_batches` for the arguments and what raises. Every rank must call.
    """
    features, labels = local_features(backbone, loader, autocast)
    return gather_rows(features), gather_rows(labels)
