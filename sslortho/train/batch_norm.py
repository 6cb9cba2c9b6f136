"""Check that batch norm has more than one sample to compute statistics of."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sslortho.models.sync_batch_norm import SyncBatchNorm


class SingleSampleError(ValueError):
    """Batch norm is given a single sample, of which there is no variance."""


def _over_all_ranks(module: nn.Module) -> bool:
    return isinstance(module, SyncBatchNorm | nn.SyncBatchNorm)


def check_batch_norm(task: nn.Module, batch_size: int, accumulation_steps: int, ranks: int) -> None:
    """Raise SingleSampleError if a batch norm of vectors would have the statistics of one sample.

    Batch norm of maps is not looked at: it needs two values a channel, and a map may have them. Modules
    that stay in evaluation mode, as those of a frozen backbone, need none.

    Args:
        task: what is trained.
        batch_size: samples of a step, over all ranks.
        accumulation_steps: parts of a step, each with statistics of its own.
        ranks: processes; each has its own share of a part.
    """
    part = batch_size // accumulation_steps
    before = {module: module.training for module in task.modules()}
    task.train()
    norms = [
        (name, module)
        for name, module in task.named_modules()
        if isinstance(module, nn.BatchNorm1d)
        or (isinstance(module, _BatchNorm) and _over_all_ranks(module))
    ]
    single = [
        name
        for name, module in norms
        if module.training and (part if _over_all_ranks(module) else part // ranks) <= 1
    ]
    for module, training in before.items():
        module.training = training
    if single:
        raise SingleSampleError(
            describe_single(f"batch_size={batch_size}", accumulation_steps, ranks, single[0])
        )


def describe_single(
    batch_size: str = "batch_size", accumulation_steps: int = 1, ranks: int = 1, name: str = ""
) -> str:
    """A message for batch norm with one sample."""
    shares = [f"accumulation_steps={accumulation_steps}"] if accumulation_steps > 1 else []
    shares += [f"{ranks} ranks"] if ranks > 1 else []
    among = f" among {' and '.join(shares)}" if shares else ""
    where = f" ({name})" if name else ""
    return (
        f"{batch_size}{among} gives batch norm{where} one sample, which has no variance; choose at least "
        "2 samples for each part of a step and each rank, or a network without batch norm"
    )
