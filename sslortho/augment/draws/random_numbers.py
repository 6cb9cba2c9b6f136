"""Random numbers as a pure function of (seed, epoch, sample index, stream).

Philox4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011) encrypts a
counter. Any draw can be computed without the ones before it: by any worker, thread or rank, and
again after a resume.
"""

import numpy as np
from numpy.typing import NDArray

# Salmon et al., table 2 and section 4.3: multipliers, and Weyl increments of the key
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
MASK = np.uint64(0xFFFFFFFF)
SHIFT = np.uint64(32)


def philox4x32(
    counter: tuple[NDArray[np.uint64], ...], key: tuple[int, int]
) -> tuple[NDArray[np.uint64], ...]:
    """Encrypt a counter of four 32-bit words with a key of two; return four 32-bit words.

    Words are held in uint64 arrays. Those of the counter have one shape, which the result has too.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> SHIFT) ^ c1 ^ np.uint64(k0),
            product1 & MASK,
            (product0 >> SHIFT) ^ c3 ^ np.uint64(k1),
            product0 & MASK,
        )
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def check_seed(seed: int) -> None:
    """Raise ValueError unless the seed fits into 32 bits, one word of the key."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed} must be from 0 to 2**32 - 1")


def uniforms(
    seed: int, epoch: int, indices: NDArray[np.int64], stream: int, count: int
) -> NDArray[np.float64]:
    """Draw independent uniform numbers, float64 (batch, count), from the open interval (0, 1).

    Args:
        seed: 0 to 2**32 - 1.
        epoch: 0 to 2**32 - 1.
        indices: sample indices in the data set, (batch,), 0 or more.
        stream: number that differs between the uses of one sample in one epoch (view and purpose).
        count: numbers for each sample.
    """
    blocks = -(-count // 4)
    shape = (len(indices), blocks)
    index = np.broadcast_to(indices.astype(np.uint64)[:, None], shape)
    block = np.broadcast_to(np.arange(blocks, dtype=np.uint64), shape)
    words = philox4x32(
        (index & MASK, index >> SHIFT, block, np.full(shape, stream, dtype=np.uint64)),
        (seed, epoch),
    )
    flat = np.stack(words, axis=-1).reshape(len(indices), 4 * blocks)[:, :count]
    return (flat.astype(np.float64) + 0.5) / 2.0**32


def counter_seeds(
    seed: int, epoch: int, indices: NDArray[np.int64], stream: int
) -> NDArray[np.uint64]:
    """Seeds of 63 bits for other generators, (batch,): the first words that `uniforms` makes numbers of.

    Args: as for `uniforms`.
    """
    index = indices.astype(np.uint64)
    low, high, *_ = philox4x32(
        (index & MASK, index >> SHIFT, index * np.uint64(0), np.full_like(index, stream)),
        (seed, epoch),
    )
    return low | ((high >> np.uint64(1)) << SHIFT)
