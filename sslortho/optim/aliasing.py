"""Gradients whose memory is not theirs alone: they must not be replaced in place.

Autograd may hand out a gradient that is expanded from one number (that of `w.sum()`), and users may give
several parameters views of one buffer. To replace such a gradient in place fails, or changes others too.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sslortho.optim.never_compiled import never_compiled


def _overlaps_itself(tensor: Tensor) -> bool:
    """Whether entries of a strided tensor share memory; may be True for odd strides that do not."""
    if tensor.is_contiguous():
        return False
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= reach:
            return True
        reach += stride * (size - 1)
    return False


def _has_address(tensor: Tensor) -> bool:
    """Whether a tensor has entries in memory; a subclass (DTensor, a fake tensor) has no such address."""
    plain = type(tensor) in (Tensor, nn.Parameter, nn.Buffer)
    return plain and tensor.layout == torch.strided and not tensor.is_meta and tensor.numel() > 0


def _span(tensor: Tensor) -> tuple[int, int]:
    """First address of a tensor, and the address behind its last entry."""
    if tensor.is_contiguous():
        entries = tensor.numel()
    else:
        pairs = zip(tensor.shape, tensor.stride(), strict=True)
        entries = 1 + sum((size - 1) * stride for size, stride in pairs)
    start = tensor.data_ptr()
    return start, start + entries * tensor.element_size()


def _find_shared(written: dict[int, Tensor], kept: Iterable[Tensor]) -> set[int]:
    """Keys of `written` whose memory, first entry to last, meets that of another tensor."""
    spans = [(*_span(tensor), key) for key, tensor in written.items()]
    spans += [(*_span(tensor), None) for tensor in kept]
    spans.sort(key=lambda span: span[:2])
    shared: set[int | None] = set()
    last_end, last_key = 0, None
    for start, end, key in spans:
        if start < last_end:
            shared |= {key, last_key}
        if end > last_end:
            last_end, last_key = end, key
    return {key for key in shared if key is not None}


@never_compiled
@torch.no_grad()
def separate_gradients(written: Iterable[Tensor], kept: Iterable[Tensor] = ()) -> None:
    """Copy each gradient that is going to be written to and whose memory is not its own.

    The copy, in the memory order of the parameter, becomes the parameter's gradient; the values stay.
    Gradients that have their memory for themselves are left alone.

    Args:
        written: parameters whose gradients are going to be written to.
        kept: parameters whose gradients are not; these and all parameters must keep their values.
    """
    owners = {id(p): p for p in written}
    everyone = {**owners, **{id(p): p for p in kept}}.values()
    gradients = {
        key: p.grad for key, p in owners.items() if p.grad is not None and _has_address(p.grad)
    }
    others = [p for p in everyone if _has_address(p)]
    others += [
        p.grad
        for p in everyone
        if id(p) not in owners and p.grad is not None and _has_address(p.grad)
    ]
    copied = _find_shared(gradients, others)
    copied |= {key for key, grad in gradients.items() if _overlaps_itself(grad)}
    for key in copied:
        parameter, grad = owners[key], gradients[key]
        parameter.grad = torch.empty_like(parameter, dtype=grad.dtype).copy_(grad)
