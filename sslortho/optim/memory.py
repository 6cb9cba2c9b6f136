"""Memory that an optimizer takes beside parameters and gradients (arXiv 2202.07052, section 3.1.2)."""

from torch import Tensor
from torch.optim import Optimizer


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of all tensors in an optimizer's state, on this rank.

    With parameters and gradients in float32: SGD without momentum keeps nothing (the paper's 2n
    memory), with momentum once the parameters (3n), Adam twice and a step count (4n).
    """
    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    )
