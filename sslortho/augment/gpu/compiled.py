"""The graph of `photometric.py` compiled by torch."""

import itertools
import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from sslortho.augment.gpu.photometric import render_photometric_batched
from sslortho.augment.views import ViewSpec

CompiledRenderer = Callable[[Tensor, Tensor], Tensor]
"""(images, parameters) -> views, with the shapes of `render_photometric_batched`."""

_numbers = itertools.count()


@cache
def compiled_renderer(
    spec: ViewSpec, channels_last: bool = False, backend: str | Callable = "inductor"
) -> CompiledRenderer:
    """Return `render_photometric_batched` of one specification, compiled once for each image shape.

    The first call with a shape takes up to a minute, less if torch's cache on disk has it. A process
    can use torch._dynamo.config.recompile_limit (8) shapes of a specification. If the very first call
    fails, as without a C compiler or Triton, a warning says so, and this process renders without compiling,
    which is slower.

    The mode is torch.compile's default. "reduce-overhead" would return views that the next call
    overwrites; "max-autotune" tunes matrix products, and there are none.

    Args:
        spec: what the graph does.
        channels_last: memory format of the views.
        backend: torch.compile's.
    """

    def render(images: Tensor, parameters: Tensor) -> Tensor:
        return render_photometric_batched(images, parameters, spec, channels_last=channels_last)

    # torch counts the shapes by code object, which all specifications would share
    render.__code__ = render.__code__.replace(co_name=f"render_{next(_numbers)}")
    options: dict[str, str | int | bool | Callable] = {}
    if backend == "inductor":
        from torch._inductor import list_options  # half a second, on a GPU alone

        # Kernels write their planes into the memory of a stack. By default another kernel copies
        # them there, or each reader computes them again. Options unknown to this torch are left out.
        known = list_options()
        names = ("max_pointwise_cat_inputs", "max_complex_pointwise_cat_inputs")
        options = {name: 0 for name in names if name in known}
    compiled = torch.compile(
        render, fullgraph=True, dynamic=False, backend=backend, options=options or None
    )

    works: bool | None = None  # not known before the first call

    @torch.no_grad()
    def call(images: Tensor, parameters: Tensor) -> Tensor:
        nonlocal works
        if works is False:
            return render(images, parameters)
        try:
            views = compiled(images, parameters)
        except Exception as error:
            if works or isinstance(error, torch.OutOfMemoryError):
                raise
            views = render(images, parameters)  # raises what is wrong with the images
            cause = getattr(error, "inner_exception", error)
            first = (str(cause).strip().splitlines() or [""])[0]
            warnings.warn(
                f"views are rendered without compiling, which is slower: {type(cause).__name__}: {first}; "
                "compiling on a GPU needs Triton and a C compiler",
                stacklevel=2,
            )
            works = False
            return views
        works = True
        return views

    return call
