"""The products of `products` on tensor cores, by one Triton kernel. CUDA alone; imported where it is used.

`multiply_three` computes what `products.emulate_three` emulates. A tile of float32 numbers is cut into
float16 after it is loaded, so that no copy of a matrix is made. Of a symmetric result the tiles on and below
the diagonal are computed, and written twice (as Dion does for its Gram matrices; what lies on the diagonal is
mirrored too, so that the result is symmetric to the bit).

Tests run the kernel on a CPU by Triton's interpreter, and compile it for several GPUs.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from sslortho.optim.polar_factor.products import SCALE

SMALL = {"BLOCK": 64, "BLOCK_INNER": 32, "num_warps": 4, "num_stages": 3}
"""Sides of a tile of the result and of what is loaded at a time: 45 KiB of shared memory where most is used,
which all GPUs from compute capability 8.0 have."""

LARGE = {"BLOCK": 128, "BLOCK_INNER": 32, "num_warps": 8, "num_stages": 3}
"""The same where the result has tiles enough to keep the device busy. By arithmetic, not measured: a tile of
side s loads 2 s numbers for 2 s^2 operations, so larger ones wait less for memory."""

BUSY = 2 * 132
"""Tiles of LARGE from which it is taken: two for each multiprocessor of an H100 or H200."""

LARGE_CAPABILITY = (9, 0)
"""Compute capability from which LARGE is taken. Compiled for 8.0 it needs more registers than there are."""

LARGE_MEMORY = 128 * 1024
"""Bytes of shared memory that a GPU must have for LARGE; those of compute capability 12.0 have 99 KiB."""


@triton.jit
def multiply_kernel(
    a,
    b,
    c,
    out,
    rows,
    inner,
    columns,
    a_matrix,
    a_row,
    a_column,
    b_matrix,
    b_row,
    b_column,
    c_matrix,
    c_row,
    c_column,
    out_matrix,
    out_row,
    out_column,
    alpha,
    beta,
    gamma,
    SCALE: tl.constexpr,
    SYMMETRIC: tl.constexpr,
    ADD_C: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_INNER: tl.constexpr,
):
    """One tile (BLOCK, BLOCK) of `alpha A B + beta C + gamma I` for one matrix of a stack, see `Multiply`.

    a, b, c, out point to float32; `x_matrix`, `x_row`, `x_column` are the strides of x in entries.
    """
    across = tl.cdiv(columns, BLOCK)
    tiles = tl.cdiv(rows, BLOCK) * across
    program = tl.program_id(0)
    matrix = (program // tiles).to(tl.int64)
    tile = program % tiles
    down = tile // across
    right = tile % across
    if SYMMETRIC:  # noqa: SIM102 - older Tritons join no constant and no tensor by "and"
        if right > down:
            return
    row = down * BLOCK + tl.arange(0, BLOCK)
    column = right * BLOCK + tl.arange(0, BLOCK)
    step = tl.arange(0, BLOCK_INNER)
    a_tile = a + matrix * a_matrix + row[:, None] * a_row + step[None, :] * a_column
    b_tile = b + matrix * b_matrix + step[:, None] * b_row + column[None, :] * b_column
    total = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    for start in range(0, inner, BLOCK_INNER):
        inside = step < inner - start
        x = tl.load(a_tile, mask=(row[:, None] < rows) & inside[None, :], other=0.0) * SCALE
        y = tl.load(b_tile, mask=inside[:, None] & (column[None, :] < columns), other=0.0) * SCALE
        high_x = x.to(tl.float16)
        high_y = y.to(tl.float16)
        low_x = (x - high_x.to(tl.float32)).to(tl.float16)
        low_y = (y - high_y.to(tl.float32)).to(tl.float16)
        total = tl.dot(high_x, low_y, total)
        total = tl.dot(low_x, high_y, total)
        total = tl.dot(high_x, high_y, total)
        a_tile += BLOCK_INNER * a_column
        b_tile += BLOCK_INNER * b_row
    total = total * (alpha / (SCALE * SCALE))
    wanted = (row[:, None] < rows) & (column[None, :] < columns)
    if SYMMETRIC:
        wanted = wanted & (row[:, None] >= column[None, :])
    if ADD_C:
        c_tile = c + matrix * c_matrix + row[:, None] * c_row + column[None, :] * c_column
        total += beta * tl.load(c_tile, mask=wanted, other=0.0)
    total += tl.where(row[:, None] == column[None, :], gamma, 0.0)
    out += matrix * out_matrix
    tl.store(out + row[:, None] * out_row + column[None, :] * out_column, total, mask=wanted)
    if SYMMETRIC:
        mirrored = (row[None, :] < rows) & (row[None, :] > column[:, None])
        target = out + column[:, None] * out_row + row[None, :] * out_column
        tl.store(target, tl.trans(total), mask=mirrored)


def _tiles(side: int, rows: int, columns: int) -> int:
    """Number of tiles of this side that cover a matrix."""
    return triton.cdiv(rows, side) * triton.cdiv(columns, side)


@functools.cache
def _takes_large(device: torch.device) -> bool:
    """Whether a GPU has the registers and the shared memory for LARGE."""
    if device.type != "cuda":
        return False
    properties = torch.cuda.get_device_properties(device)
    memory = getattr(properties, "shared_memory_per_block_optin", 0)
    return (properties.major, properties.minor) >= LARGE_CAPABILITY and memory >= LARGE_MEMORY


def _choose_blocks(number: int, rows: int, columns: int, device: torch.device) -> dict[str, int]:
    """SMALL or LARGE for a result (number, rows, columns)."""
    if number * _tiles(LARGE["BLOCK"], rows, columns) < BUSY:
        return SMALL
    return LARGE if _takes_large(device) else SMALL


def multiply_three(
    a: Tensor,
    b: Tensor,
    *,
    alpha: float = 1.0,
    c: Tensor | None = None,
    beta: float = 0.0,
    gamma: float = 0.0,
    symmetric: bool = False,
) -> Tensor:
    """See `products.Multiply`: three float16 products. float32 alone."""
    number, rows, inner = a.shape
    columns = b.shape[-1]
    operands = [a, b] if c is None else [a, b, c]
    assert all(x.dtype == torch.float32 and x.device == a.device for x in operands)
    assert b.shape[:2] == (number, inner)
    assert c is None or c.shape == (number, rows, columns)
    out = torch.empty(number, rows, columns, dtype=torch.float32, device=a.device)
    added = out if c is None else c
    blocks = _choose_blocks(number, rows, columns, a.device)
    grid = (number * _tiles(blocks["BLOCK"], rows, columns),)
    strides = (*a.stride(), *b.stride(), *added.stride(), *out.stride())
    options = {"SCALE": SCALE, "SYMMETRIC": symmetric, "ADD_C": c is not None}
    # the kernel goes to the current device
    with torch.cuda.device(a.device if a.is_cuda else -1):
        multiply_kernel[grid](  # pyright: ignore[reportCallIssue]
            *(a, b, added, out, rows, inner, columns, *strides, alpha, beta, gamma),
            **options,
            **blocks,
        )
    return out
