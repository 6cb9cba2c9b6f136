"""Decoders for FFCV pipelines: one decoding of an image for all its views.

FFCV's own crop decoders decode an image once for each view. These are compiled by FFCV's compiler and
called by `source`, which fills the memory that they ask for with the draws of each batch, and adds what
is common to all samples. FFCV's own loader cannot call them: it does not fill such memory.
"""

import ctypes
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import ffcv._libffcv
import numpy as np
import torch
from ffcv.fields.rgb_image import IMAGE_MODES
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.operation import Operation
from ffcv.pipeline.state import State
from numpy.typing import NDArray

from sslortho.augment.cpu.view_kernel import crop_views, render_views
from sslortho.augment.draws.crops import GEOMETRY_DRAWS
from sslortho.augment.draws.photometric import PARAMETERS

# FFCV's library is linked with libjpeg-turbo, which is called directly: FFCV's own imdecode asks for the
# fast, inexact DCT, which saves 3 % of the time and is up to 6 grey levels off
_turbo = ctypes.CDLL(ffcv._libffcv.__file__)
_create = _turbo.tjInitDecompress
_create.argtypes, _create.restype = [], ctypes.c_void_p
_destroy = _turbo.tjDestroy
_destroy.argtypes, _destroy.restype = [ctypes.c_void_p], ctypes.c_int
_read_header = _turbo.tjDecompressHeader3
_read_header.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulong, *[ctypes.c_void_p] * 4]
_read_header.restype = ctypes.c_int
_decompress = _turbo.tjDecompress2
_decompress.argtypes = [
    ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, *[ctypes.c_int] * 5,
]  # fmt: skip
_decompress.restype = ctypes.c_int
_error_code = _turbo.tjGetErrorCode
_error_code.argtypes, _error_code.restype = [ctypes.c_void_p], ctypes.c_int
_RGB, _ACCURATE_DCT, _FATAL = 0, 4096, 1  # TJPF_RGB, TJFLAG_ACCURATEDCT, TJERR_FATAL (turbojpeg.h)

JPG = IMAGE_MODES["jpg"]


def decode_jpeg(
    handle: int, data: NDArray[np.uint8], out: NDArray[np.uint8], height: int, width: int
) -> bool:
    """Decode JPEG bytes into the first height * width * 3 values of `out`; returns whether it worked.

    A mere warning of libjpeg, such as a few bytes too many, is not a failure, as with PIL.

    Args:
        handle: of a decompressor.
        data: (n,), the bytes.
        out: (height * width * 3 or more,).
        height, width: pixels; the JPEG's own header must say the same.
    """
    said = np.zeros(4, np.int32)  # width, height, subsampling, colour space
    at = said.ctypes.data
    done = _read_header(handle, data.ctypes.data, data.size, at, at + 4, at + 8, at + 12)
    if done != 0 and _error_code(handle) == _FATAL:
        return False
    if said[0] != width or said[1] != height:
        return False
    flags = _ACCURATE_DCT
    done = _decompress(
        handle, data.ctypes.data, data.size, out.ctypes.data, width, 0, height, _RGB, flags
    )
    return done == 0 or _error_code(handle) != _FATAL


class _ViewDecoder(Operation):
    """Base of the two decoders.

    Everything that differs from one set of views to another is passed as memory, so that one
    compilation, which takes seconds, serves training and evaluation.

    Args:
        crop_sizes: side of each view in pixels.
    """

    def __init__(self, crop_sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.views = len(crop_sizes)
        self.values = sum(3 * size * size for size in crop_sizes)

    def _decoder(self) -> Callable[..., Any]:
        """Compiled: (record, storage, handle, memory) to pixels (h, w, 3), of height 0 if broken."""
        read: Any = self.memory_read
        jpg = JPG
        decompress = Compiler.compile(decode_jpeg)

        def decode(field, storage, handle, memory):
            data = read(field["data_ptr"], storage)
            height, width = np.int64(field["height"]), np.int64(field["width"])
            if field["mode"] == jpg:
                if not decompress(handle, data, memory, height, width):
                    height = np.int64(0)
                data = memory
            return data[: height * width * 3].reshape(height, width, 3)

        return Compiler.compile(decode)

    def _queries(self, output: AllocationQuery) -> tuple[AllocationQuery, ...]:
        return (
            output,
            AllocationQuery((self.views, GEOMETRY_DRAWS), np.dtype("f8")),
            AllocationQuery((self.views, PARAMETERS), np.dtype("f4")),
            AllocationQuery((), np.dtype("u1")),
        )

    @abstractmethod
    def _maker(self) -> Callable[..., None]:
        """Function (image, uniforms, parameters, settings, out, place in out) that writes the views."""

    def generate_code(self) -> Callable[..., Any]:
        """Function (batch_indices, memory, metadata, storage) that fills and returns memory[0].

        The items of memory: output, uniforms, parameters and broken, as declared; the settings of the
        views; the place in these arrays of the first sample; the bytes of the largest image. The
        caller fills uniforms and parameters. broken is set to 1 for images that cannot be decoded.
        """
        decode, make = self._decoder(), Compiler.compile(self._maker())

        def run(batch_indices, memory, metadata, storage):
            out, uniforms, parameters, broken, settings, first, largest = memory
            handle, pixels = _create(), np.empty(largest, np.uint8)
            for i in range(len(batch_indices)):
                at = first + i
                image = decode(metadata[batch_indices[i]], storage, handle, pixels)
                broken[at] = image.size == 0
                if not broken[at]:
                    make(image, uniforms[at], parameters[at], settings, out, at)
            _destroy(handle)
            return out

        return run


class MultiCropDecoder(_ViewDecoder):
    """Decode once, crop and flip every view: uint8 (batch, sum of 3 * size * size over the views)."""

    def declare_state_and_memory(
        self, previous_state: State
    ) -> tuple[State, tuple[AllocationQuery, ...]]:
        """Output and the memory for each sample; FFCV calls this."""
        shape, dtype = (self.values,), np.dtype("u1")
        state = State(jit_mode=True, device=torch.device("cpu"), shape=shape, dtype=dtype)
        return state, self._queries(AllocationQuery(shape, dtype))

    def _maker(self) -> Callable[..., None]:
        def crop(image, uniforms, parameters, settings, crops, at):
            crop_views(image, uniforms, settings, crops[at].reshape(1, 1, -1))

        return crop


class MultiViewDecoder(_ViewDecoder):
    """Decode once and finish every view: float32, for each view (batch, 3 * size * size).

    The views lie one after the other in memory, so that the batch of each is contiguous.

    Args:
        crop_sizes: side of each view in pixels.
        channels_last: memory format of the views.
    """

    def __init__(self, crop_sizes: tuple[int, ...], channels_last: bool) -> None:
        super().__init__(crop_sizes)
        self.channels_last = channels_last

    def declare_state_and_memory(
        self, previous_state: State
    ) -> tuple[State, tuple[AllocationQuery, ...]]:
        """Output and the memory for each sample; FFCV calls this."""
        shape, dtype = (self.values,), np.dtype("f4")
        state = State(jit_mode=True, device=torch.device("cpu"), shape=shape, dtype=dtype)
        return state, self._queries(AllocationQuery(shape, dtype))

    def _maker(self) -> Callable[..., None]:
        last = self.channels_last

        def render(image, uniforms, parameters, settings, views, at):
            render_views(image, uniforms, parameters, settings, last, views, at)

        return render
